"""Presets are what the official programs do; a result follows from images, reference and protocol alone."""

import json
import warnings

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from pydantic import ValidationError
from torch_fidelity.metric_isc import isc_features_to_metric

from fpd_core.config import ConfigError
from fpd_eval.bench.bench import Bench, Place, feasible, measure_images
from fpd_eval.bench.references import open_reference
from fpd_eval.bench.subsets import require_subsets
from fpd_eval.geneval.judge import JudgeOptions
from fpd_eval.geneval.request import Request
from fpd_eval.images.image_files import npz_images
from fpd_eval.images.image_set import to_uint8
from fpd_eval.metrics import frechet_distance, inception_score
from fpd_eval.protocols import PROTOCOLS, MetricProtocol, protocol_called
from fpd_eval.report.entrants import Comparison
from fpd_eval.runtime.cache import Cache
from fpd_eval.systems import SYSTEMS

# Section by section what the programs do: resize and network, rounding, reference, k, comparison, IS splits.
OFFICIAL = {
    "dimo": {
        "features": "inception_tensorflow",
        "scores": "inception_fidelity",
        "num_images": 50000,
        "num_reference": 10000,
        "rounding": "half_up",
        "statistics": "file",
        "precision_recall_k": 3,
        "density_coverage_k": 3,
        "inclusive": False,
        "inception_splits": 10,
        "inception_split_size": None,
        "inception_shuffle": True,
    },
    "adm": {
        "features": "inception_fidelity",
        "scores": "inception_fidelity",
        "num_images": 50000,
        "num_reference": 10000,
        "statistics": "file",
        "precision_recall_k": 3,
        "density_coverage_k": None,
        "inclusive": True,
        "inception_split_size": 5000,
        "inception_shuffle": False,
    },
    "clean": {"features": "inception_clean", "kid_subsets": 100, "kid_subset_size": 1000},
    "fdd": {"features": "dinov2_vitl14", "metrics": ("fdd",), "num_images": 50000},
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_presets_are_the_official_programs(name):
    fields = PROTOCOLS[name].model_dump()
    assert {key: fields[key] for key in OFFICIAL[name]} == OFFICIAL[name]


def test_roundings_of_a_grey_level_apart():
    """In 255ths: 2.5 and 3.5 tell the three rules apart. DiMO computes 127.5 x + 128 of [-1, 1] and truncates."""
    levels = torch.tensor([0.0, 2.5, 3.5, 3.9, 255.0], dtype=torch.float64)
    images = (levels / 255).view(1, 1, 1, 5)
    dimo = (127.5 * (2 * images - 1) + 128).clamp(0, 255).to(torch.uint8)
    adm = ((2 * images - 1 + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    assert to_uint8(images, "half_even").flatten().tolist() == [0, 2, 4, 4, 255]
    assert to_uint8(images, "half_up").flatten().tolist() == [0, 3, 4, 4, 255] == dimo.flatten().tolist()
    assert to_uint8(images, "truncate").flatten().tolist() == [0, 2, 3, 3, 255] == adm.flatten().tolist()


def test_adm_splits_are_consecutive_blocks():
    """12 rows in blocks of 5: 5, 5 and 2, each by torch-fidelity as one split, in order."""
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blocks = [isc_features_to_metric(part, 1, False, 0)["inception_score_mean"] for part in torch.split(logits, 5)]
    mean, std = inception_score(logits, split_size=5, shuffle=False)
    assert mean == pytest.approx(np.mean(blocks), rel=1e-12)
    assert std == pytest.approx(np.std(blocks), rel=1e-12)


def test_unknown_protocols_and_keys_are_answered():
    with pytest.raises(ConfigError, match="did you mean 'dimo'"):
        protocol_called("dimmo")
    with pytest.raises(ValidationError, match="did you mean 'inclusive'"):
        MetricProtocol.model_validate({**PROTOCOLS["dimo"].model_dump(), "inclusiv": True})
    with pytest.raises(ValidationError, match="needs `scores`"):
        MetricProtocol.model_validate({**PROTOCOLS["fdd"].model_dump(), "metrics": ("is",)})


class Pixels:
    """Features without a network: the first row of pixels, and as logits the second."""

    fingerprint = "pixels"

    def __init__(self):
        self.calls = 0

    def __call__(self, pixels):
        self.calls += 1
        values = pixels.float() / 255
        return {
            "features": values[:, :, 0].flatten(1),
            "logits": 9 * values[:, :, 1].flatten(1),
            "spatial": values[:, 0, :, 2],
        }


@pytest.fixture
def extractor(monkeypatch):
    extractor = Pixels()
    monkeypatch.setattr("fpd_eval.bench.bench.load_extractor", lambda *_: extractor)
    return extractor


def pixels(count, seed, low=0):
    return np.random.default_rng(seed).integers(low, 256, size=(count, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path):
    """40 images, and a reference of 30 with mu/sigma of other features."""
    statistics = np.random.default_rng(5).normal(size=(50, 12))
    np.savez(tmp_path / "images.npz", pixels(40, 0, low=60))
    np.savez(tmp_path / "reference.npz", pixels(30, 1), mu=statistics.mean(0), sigma=np.cov(statistics, rowvar=False))
    np.savez(tmp_path / "plain.npz", pixels(30, 1))
    return tmp_path


def small(name, **changes):
    fields = {"num_images": 40, "num_reference": 30, "inception_splits": 2, "kid_subset_size": 20, "kid_subsets": 3}
    return PROTOCOLS[name].model_copy(update=fields | changes)


def found(files, protocol, metrics=None, reference=("reference.npz",), cache="cache"):
    against = open_reference([files / name for name in reference], 16)
    place = Place(Cache(files / cache))
    names = list(metrics or feasible(protocol, against)[0])
    return measure_images(npz_images(files / "images.npz", 16), Bench(protocol, names, against, place))


def rows(count, seed, low=0):
    return Pixels()(torch.from_numpy(pixels(count, seed, low)).permute(0, 3, 1, 2))


def test_dimo_takes_its_distance_to_the_file_and_precision_to_the_images(files, extractor):
    result = found(files, small("dimo"))
    real, fake = rows(30, 1), rows(40, 0, 60)
    expected = compute_prdc(real["features"].numpy(), fake["features"].numpy(), 3)
    for name, value in expected.items():
        assert result.values[name] == pytest.approx(float(value))
    statistics = np.random.default_rng(5).normal(size=(50, 12))
    assert result.values["fid"] == pytest.approx(frechet_distance(statistics, fake["features"]), rel=1e-9)
    score = isc_features_to_metric(fake["logits"].double(), 2, True, 2020)
    assert result.values["inception_score"] == pytest.approx(score["inception_score_mean"])
    assert result.warnings == ()


def test_adm_reports_no_density_and_can_do_sfid_from_images(files, extractor):
    result = found(files, small("adm", inception_split_size=20))
    assert set(result.values) == {"fid", "sfid", "inception_score", "inception_score_std", "precision", "recall"}
    expected = frechet_distance(rows(30, 1)["spatial"], rows(40, 0, 60)["spatial"])
    assert result.values["sfid"] == pytest.approx(expected, rel=1e-9)


def test_distances_to_images_instead_of_the_published_file_are_marked(files, extractor):
    result = found(files, small("dimo"), ["fid"], ["plain.npz"])
    assert result.values["fid"] == pytest.approx(
        frechet_distance(rows(30, 1)["features"], rows(40, 0, 60)["features"]), rel=1e-9
    )
    assert "30 reference images and cannot be compared with published values" in result.warnings[0]


def test_what_a_reference_cannot_answer_is_said(files):
    np.savez(files / "stats.npz", mu=np.zeros(12), sigma=np.eye(12))
    names, lacks = feasible(small("adm"), open_reference([files / "stats.npz"], 16))
    assert names == ["fid", "is"]
    assert lacks == [
        "sfid needs reference statistics or images; name one with --reference",
        "prc needs reference images; name one with --reference",
    ]
    assert feasible(small("dimo"), open_reference([], 16))[0] == ["is"]


def test_a_second_measurement_reads_the_cache(files, extractor):
    first = found(files, small("dimo"))
    extractor.calls = 0
    assert found(files, small("dimo")) == first
    assert extractor.calls == 0
    assert found(files, small("dimo", precision_recall_k=2)).values["precision"] != first.values["precision"]
    assert extractor.calls == 0


def test_wrong_counts_are_refused_with_the_option_that_accepts_them(files, extractor):
    with pytest.raises(ValueError, match=r"holds 40 images, protocol 'dimo' measures 50000; .*--num-images 40"):
        found(files, PROTOCOLS["dimo"])
    with pytest.raises(ValueError, match=r"holds 30 images, protocol 'dimo' compares with 10000; .*--num-reference 30"):
        found(files, small("dimo", num_reference=10000))
    assert extractor.calls == 0


def test_statistics_of_other_features_are_refused(files, extractor):
    np.savez(files / "other.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ValueError, match="real statistics have 2048 dimensions, the fake ones 12"):
        found(files, small("dimo"), ["fid"], ["other.npz"])


def test_fewer_images_than_dimensions_are_warned_about_also_from_the_cache(files, extractor):
    np.savez(files / "images.npz", pixels(10, 0))
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = found(files, small("dimo", num_images=10), ["fid"])
        assert len(result.warnings) == 1
        assert "10 fake features of 12 dimensions: their covariance is singular" in result.warnings[0]


def test_results_are_plain_json_with_the_whole_protocol(files, extractor):
    stored = json.loads(found(files, small("dimo")).model_dump_json())
    assert stored["protocol"]["features"] == "inception_tensorflow"
    assert stored["num_images"] == 40
    assert stored["num_reference"] == 30


def test_kid_says_how_many_images_it_needs():
    protocol = protocol_called("small").without_classes().model_copy(update={"num_images": 200})
    nothing = open_reference([], 16)
    with pytest.raises(ValueError, match=r"subsets of 1000 images, and here are 200; .* --only is$"):
        require_subsets(protocol, ["is", "kid"], nothing)
    require_subsets(protocol, ["is"], nothing)
    require_subsets(protocol.model_copy(update={"num_images": 1000}), ["kid"], nothing)


@pytest.mark.parametrize("model", [MetricProtocol, Comparison, Request, JudgeOptions, *SYSTEMS.values()])
def test_every_key_that_a_user_can_write_is_described(model):
    schema = model.model_json_schema()
    sections = {model.__name__: schema, **schema.get("$defs", {})}
    keys = {f"{name}.{key}": entry for name, one in sections.items() for key, entry in one["properties"].items()}
    assert len(keys) > 4
    assert [key for key, entry in keys.items() if len(entry.get("description", "")) < 2] == []
