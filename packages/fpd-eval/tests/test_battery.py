"""A battery from images to the table: ratios by hand, real images at 1, judges held out of the loss."""

import json
from statistics import fmean

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fpd_core.checkpoints import read_config
from fpd_core.generator import GenerationConfig, save_generator
from fpd_core.teachers import load_teacher
from fpd_eval.bench.battery import held_out, is_judged_by_its_loss, real_against_real
from fpd_eval.bench.bench import Place, measure_images, open_bench
from fpd_eval.bench.measure import measure, second_half
from fpd_eval.extractors import ENCODERS, EXTRACTORS, family
from fpd_eval.metrics.ratios import split_in_halves
from fpd_eval.protocols import PROTOCOLS
from fpd_eval.report.battery_table import battery_notes, with_held_out

PAIR = ("classifier", "pixels_8x8")


@pytest.fixture
def battery(small_world, write_idx, tmp_path):
    """The small world under a battery of two encoders: 30 images against halves of 30 of 90 real ones."""
    random = np.random.default_rng(0)
    write_idx(tmp_path / "images.gz", random.integers(0, 256, size=(90, 28, 28)))
    write_idx(tmp_path / "labels.gz", np.arange(90) % 3)
    changed = {"num_images": 30, "battery": PAIR, "kid_subsets": 2, "kid_subset_size": 5, "real_splits": 4}
    own = {name: getattr(small_world.protocol, name) for name in ("class_names", "reference", "reference_labels")}
    protocol = PROTOCOLS["battery"].model_copy(update=changed | own | {"batch_size": 10, "timing_batch_size": None})
    return small_world, open_bench(protocol, Place(small_world.cache))


def frechet(a, b):
    """By the general matrix root."""
    covariances = [np.cov(rows, rowvar=False) for rows in (a, b)]
    root = np.trace(sqrtm(covariances[0] @ covariances[1]).real)
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + sum(map(np.trace, covariances)) - 2 * root


def test_fdr_is_the_mean_over_encoders_of_distances_in_units_of_real_halves(battery):
    world, bench = battery
    images = world.system().image_set(bench.protocol.plan(3))
    found = measure_images(images, bench).values
    ratios = []
    for name in PAIR:
        real, fake = (
            bench.features(one, [name])[name]["features"].double().numpy() for one in (bench.reference.images, images)
        )
        halves = [[real[rows] for rows in split_in_halves(90, 30, split)] for split in range(4)]
        unit = fmean(frechet(*pair) for pair in halves)
        assert found[f"fd/{name}"] == pytest.approx(frechet(halves[0][0], fake), rel=1e-4)
        ratios.append(frechet(halves[0][0], fake) / unit)
        assert found[f"fdr/{name}"] == pytest.approx(ratios[-1], rel=1e-4)
    assert found["fdr"] == pytest.approx(fmean(ratios), rel=1e-4)
    assert {"swr", "cmmdr", "mind/classifier", "kid/pixels_8x8"} <= found.keys()
    assert "kidr" not in found


def test_real_images_score_one_within_their_error(battery):
    """On splits that had no part in the unit; noise is far from 1, so the test could fail."""
    _, bench = battery
    row = second_half(bench, 3)
    assert len(row.seeds) == 4
    for ratio in ("fdr", "swr", "cmmdr"):
        assert row.values[ratio] != 1
        assert abs(row.values[ratio] - 1) < 2 * row.sd(ratio) < 0.5
    assert all(values["fdr"] != row.values["fdr"] for values in real_against_real(bench))


def test_generated_images_do_not(battery):
    world, bench = battery
    assert measure(world.system(), bench).values["fdr"] > 2


@pytest.mark.parametrize(
    ("trainings", "left"),
    [
        ([None], PAIR),
        ([()], PAIR),
        ([("pixels",), None], ("classifier",)),
        ([("pixels",), ("classifier", "deit")], ()),
    ],
)
def test_held_out_is_what_no_training_saw(trainings, left):
    assert held_out(PAIR, trainings) == left


def test_every_encoder_knows_its_family():
    assert {family("dinov3_vitb16"), family("pixels_8x8"), family("mae_vitl16")} == {"dinov3", "pixels", "mae_vitl16"}
    assert set(ENCODERS) <= set(EXTRACTORS)
    assert all(set(protocol.battery) <= set(ENCODERS) for protocol in PROTOCOLS.values())


def test_a_battery_without_a_held_out_encoder_is_refused(battery):
    world, bench = battery
    system = world.system()
    system.encoders = ("classifier", "pixels")
    with pytest.raises(ValueError, match=r"saw every encoder of the battery .*none is held out; add one .* --encoder"):
        measure(system, bench)


@pytest.mark.parametrize(
    ("metrics", "seen", "marked"),
    [
        (("fd_efficientnet",), ("efficientnet_lite0",), True),
        (("fd_efficientnet", "is"), ("efficientnet_lite0",), True),
        (("fd_efficientnet", "fd_classifier"), ("efficientnet_lite0",), False),
        (("fd_efficientnet",), None, False),
        (("is",), ("classifier",), False),
    ],
)
def test_an_evaluation_by_nothing_but_the_loss_is_marked(small_world, metrics, seen, marked):
    protocol = small_world.protocol.model_copy(update={"metrics": metrics, "timing_batch_size": None})
    bench = open_bench(protocol, Place(small_world.cache))
    assert is_judged_by_its_loss(seen, bench) is marked
    system = small_world.system()
    system.encoders = seen
    assert ("judged by its own loss" in measure(system, bench).label) is marked


def test_held_out_means_are_over_one_set_of_encoders(battery):
    world, bench = battery
    systems = [world.system(str(number)) for number in range(2)]
    systems[1].encoders = ("pixels",)
    rows = with_held_out([*(measure(one, bench) for one in systems), second_half(bench, 3)], PAIR)
    for row in rows:
        assert row.values["fdr_held_out"] == row.values["fdr/classifier"]
    assert rows[2].sd("fdr_held_out") > 0


def test_too_few_real_images_are_said(battery):
    world, bench = battery
    protocol = bench.protocol.model_copy(update={"num_images": 48})
    with pytest.raises(ValueError, match=r"two halves of 48, images\.gz holds 90; measure fewer with --num-images 45"):
        open_bench(protocol, Place(world.cache))


@pytest.fixture
def toy(monkeypatch):
    changed = {"num_images": 20, "batch_size": 10, "kid_subsets": 2, "kid_subset_size": 5, "battery": PAIR}
    protocol = PROTOCOLS["battery"].model_copy(update=changed)
    monkeypatch.setitem(PROTOCOLS, "battery", protocol)


def compared(run, world, *arguments):
    common = ("--protocol", "battery", "--steps", "2", "--out", str(world / "battery"))
    return run("compare", "--ckpt", "runs/tiny/student", *common, *arguments)


def test_compare_shows_who_saw_what_and_the_real_images(run, world, toy):
    code, out, err = compared(run, world)
    assert code == 0, err
    assert max(len(line) for line in out.splitlines()[:-1]) <= 80
    report = (world / "battery" / "report.md").read_text()
    assert "| real, second half (10 splits) | – | – |" in report
    assert "| student | 1 | 1 |" in report
    assert "unknown" in report
    assert r"Held out: classifier, pixels\_8x8" in report
    found = json.loads((world / "battery" / "results.json").read_text())
    assert [row["role"] for row in found["rows"]] == ["teacher", "untrained", "student", "real"]
    assert found["verdicts"] == []
    page = (world / "battery" / "report.html").read_text()
    assert "real, second half" in page


def test_metrics_names_what_the_training_saw(run, world, toy):
    teacher = load_teacher({"name": "fashion", "path": str(world / "assets" / "fashion" / "teacher")})
    folder = world / "runs" / "seen" / "student"
    how = GenerationConfig()
    save_generator(folder, teacher, teacher.network, how, {"name": "fashion"}, "card", encoders=["pixels", "pixels"])
    assert read_config(folder)["training"] == {"encoders": ["pixels"]}
    code, out, err = run("metrics", "--protocol", "battery", "--ckpt", str(folder), "--json")
    assert code == 0, err
    assert json.loads(out)["encoders"] == ["pixels"]
    assert json.loads(out)["values"]["fdr"] > 0
    code, out, err = run("metrics", "--protocol", "battery", "--encoder", "pixels_8x8", "--ckpt", str(folder))
    assert (code, out) == (2, "")
    assert "none is held out" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--encoder", "classifyer"), "did you mean 'classifier'"),
        (("--encoder", "classifier", "--encoder", "classifier"), "battery names an encoder twice"),
        (("--protocol", "small", "--encoder", "classifier"), "--encoder belongs to a protocol with a battery"),
        (("--encoder", "mae_vitl16"), "vit_large_patch16_224.mae.safetensors does not exist; get MAE ViT-L/16"),
        (("--num-images", "3"), "num_images must be at least 5, a subset of KID"),
    ],
)
def test_mistakes_end_in_one_sentence(run, world, toy, arguments, message):
    code, out, err = compared(run, world, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_notes_are_for_batteries_alone(results):
    assert battery_notes(results) == []
