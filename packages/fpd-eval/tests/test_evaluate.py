"""Rows are a function of system, protocol and weights; caching changes nothing but the time."""

import base64
import gzip
import io

import numpy as np
import pytest
import torch
from PIL import Image

from fpd_eval.bench.bench import Place, open_bench
from fpd_eval.bench.measure import measure, measure_reference
from fpd_eval.bench.timing import milliseconds_per_image
from fpd_eval.images.image_set import idx_images, to_uint8
from fpd_eval.runtime.cache import Cache


def real_images(protocol):
    return idx_images(protocol.reference, protocol.batch_size, labels_path=protocol.reference_labels)


def without_time(row):
    return row.model_dump(exclude={"ms_per_image"})


def test_uint8_rounding_is_to_nearest_with_halves_to_even():
    images = torch.tensor([-0.1, 0.0, 0.5 / 255, 1.5 / 255, 254.4 / 255, 1.2], dtype=torch.float64).view(1, 1, 1, 6)
    assert to_uint8(images).flatten().tolist() == [0, 0, 0, 2, 254, 255]


def test_images_with_nan_are_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        to_uint8(torch.full((1, 3, 2, 2), torch.nan))


def test_real_images_are_padded_grey(protocol):
    batch = next(iter(real_images(protocol).batches()))
    assert batch.shape == (10, 3, 32, 32)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[:, 0], batch[:, 2])
    border = batch.clone()
    border[:, :, 2:30, 2:30] = 0
    assert border.sum() == 0
    assert batch[:, :, 2:30, 2:30].float().mean() > 100


def test_conditions_are_interleaved_and_seeds_differ_per_batch(small_world):
    system = small_world.system()
    images = system.image_set(small_world.plan)
    assert [len(batch) for batch in images.batches()] == [10, 10, 4]
    assert [label for labels, _ in system.calls for label in labels] == [0, 1, 2] * 8 == images.labels.tolist()
    assert len({seed for _, seed in system.calls}) == 3


def test_a_batch_does_not_depend_on_those_before_it(small_world):
    batches = list(small_world.system().image_set(small_world.plan).batches())
    assert torch.equal(small_world.system().image_set(small_world.plan).batch(10), batches[1])


def test_class_accuracy_counts_predictions_equal_to_conditions(small_world):
    row = measure(small_world.system(), open_bench(small_world.protocol, Place(small_world.cache)))
    assert row.values["class_accuracy"] == 1.0

    class Swapped(small_world.system):
        def images(self, condition, *, seed):
            return super().images(type(condition)(condition.labels.clamp(max=1)), seed=seed)

    row = measure(Swapped("swapped"), open_bench(small_world.protocol, Place(small_world.cache)))
    assert row.values["class_accuracy"] == pytest.approx(2 / 3)


def test_brightness_and_contrast_are_those_of_all_pixels(small_world):
    bench = open_bench(small_world.protocol, Place(small_world.cache))
    row = measure(small_world.system(), bench)
    shown = np.concatenate([batch.numpy() for batch in small_world.system().image_set(small_world.plan).batches()])
    with gzip.open(small_world.protocol.reference) as file:
        real = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28)
    real = np.pad(real, ((0, 0), (2, 2), (2, 2)))  # as systems draw them: 32 pixels wide
    for values, pixels in ((row.values, shown), (measure_reference(bench).values, real)):
        assert values["mean_pixel"] == pytest.approx(np.mean(pixels / 255), rel=1e-6)
        assert values["pixel_std"] == pytest.approx(np.std(pixels / 255), rel=1e-6)


def test_equal_seeds_give_equal_rows_and_other_seeds_do_not(small_world, tmp_path):
    def row(seed, folder):
        protocol = small_world.protocol.model_copy(update={"seed": seed})
        return without_time(measure(small_world.system(), open_bench(protocol, Place(Cache(tmp_path / folder)))))

    assert row(1, "one") == row(1, "two")
    assert row(1, "three")["values"] != row(2, "three")["values"]


def test_a_second_measurement_makes_no_images(small_world):
    first = measure(small_world.system(), open_bench(small_world.protocol, Place(small_world.cache)))
    again = small_world.system()
    assert measure(again, open_bench(small_world.protocol, Place(small_world.cache))) == first
    assert again.calls == []


def test_changed_weights_of_an_extractor_are_extracted_again_alone(small_world):
    measure(small_world.system(), open_bench(small_world.protocol, Place(small_world.cache)))
    for extractor in small_world.extractors.values():
        extractor.calls = 0
    small_world.extractors["classifier"].fingerprint = "retrained"
    measure(small_world.system(), open_bench(small_world.protocol, Place(small_world.cache)))
    assert small_world.extractors["classifier"].calls == 3 + 3
    assert small_world.extractors["efficientnet_lite0"].calls == 0


def test_changed_weights_of_a_system_are_measured_again(small_world):
    bench = open_bench(small_world.protocol, Place(small_world.cache))
    measure(small_world.system("before"), bench)
    changed = small_world.system("after")
    measure(changed, bench)
    assert changed.calls


@pytest.mark.parametrize("kind", ["features", "metric", "time"])
def test_a_damaged_cache_file_is_named_and_recomputed(small_world, kind):
    expected = without_time(measure(small_world.system(), open_bench(small_world.protocol, Place(small_world.cache))))
    if kind == "features":
        for path in small_world.cache.folder.glob("metric-*"):
            path.unlink()
    for path in small_world.cache.folder.glob(f"{kind}-*"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=rf"{kind}-\w+\.(safetensors|json) is damaged"):
        found = without_time(measure(small_world.system(), open_bench(small_world.protocol, Place(small_world.cache))))
    assert found == expected


def test_samples_are_the_first_measured_images(small_world):
    row = measure(small_world.system(), open_bench(small_world.protocol, Place(small_world.cache)))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(row.samples))))
    assert picture.shape == (3 * 32, 3 * 32, 3)
    first = small_world.system().image_set(small_world.plan).batch(0)
    assert np.array_equal(picture[32:64, :32].transpose(2, 0, 1), first[3].numpy())
    assert np.array_equal(picture[:32, 64:].transpose(2, 0, 1), first[2].numpy())


def test_reference_strip_shows_one_class_per_column(small_world):
    bench = open_bench(small_world.protocol, Place(small_world.cache))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(measure_reference(bench).samples))))
    pixels = next(iter(real_images(small_world.protocol).batches()))
    # Labels are i mod 3: the second image of class 2 is image 5.
    assert np.array_equal(picture[32:64, 64:].transpose(2, 0, 1), pixels[5].numpy())


def test_time_is_the_median_after_a_warm_up(small_world, monkeypatch):
    """Calls take 9 (warm-up), 1, 2, 6 seconds for 2 images."""
    clock = iter([0, 9, 10, 11, 20, 22, 30, 36])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    protocol = small_world.protocol.model_copy(update={"timing_repeats": 3})
    assert milliseconds_per_image(small_world.system(), protocol, torch.device("cpu")) == 1000


def test_a_truncated_reference_is_refused(small_world):
    path = small_world.protocol.reference
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"images\.gz"):
        open_bench(small_world.protocol, Place(small_world.cache))


def test_a_protocol_may_compare_with_the_first_real_images_only(small_world):
    protocol = small_world.protocol.model_copy(update={"num_reference": 5})
    images = idx_images(protocol.reference, 4, protocol.num_reference, labels_path=protocol.reference_labels)
    whole = real_images(protocol)
    assert torch.equal(torch.cat(list(images.batches())), torch.cat(list(whole.batches()))[:5])
    assert torch.equal(images.labels, whole.labels[:5])
    assert images.identity != whole.identity
    assert "the first 5 images of" in protocol.sentence()
    with pytest.raises(ValueError, match="the protocol asks for 100000"):
        idx_images(protocol.reference, 4, 100000)
