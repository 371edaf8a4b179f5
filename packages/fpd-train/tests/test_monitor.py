"""Progress beside the training: what it measures, what it keeps, and that training does not notice it."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fpd_core.objective import draw_draft, draw_target
from fpd_train.config import load_config
from fpd_train.methods import teacher_samples
from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.interface import Parts
from fpd_train.methods.monitor import CACHE
from fpd_train.seeds import seeded

SECTION = {"every": 2, "samples": 8, "teacher_samples": 6, "teacher_steps": 3, "heldout_space": {"space": "feature"}}
MEASURED = {
    *("progress/pixels", "progress/efficientnet_lite0", "teacher/pixels", "teacher/efficientnet_lite0"),
    *("heldout/changed", "heldout/recall"),
}


@pytest.fixture
def method_with(teacher_folder):
    def build(**changes):
        section = {"teacher": {"name": "fashion", "path": str(teacher_folder)}, "lift": {"space": "pixel"}}
        config = FpdConfig.model_validate(section | {"monitor": SECTION | changes})
        torch.manual_seed(5)
        return FpdMethod(config, Parts(torch.device("cpu"), world=1, seed=0, steps=5))

    return build


def energy(x, y):
    """Coefficient of two sets of images in pairs, over the sixteen cells, by explicit differences."""
    cells = [z.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) for z in (x, y)]
    x, y = (z.double() for z in cells)
    apart = ~torch.eye(len(x), dtype=torch.bool)
    across, within_x, within_y = (
        (a[:, None] - b[None]).norm(dim=3)[apart].mean(0).sum() for a, b in ((x, y), (x, x), (y, y))
    )
    return float((2 * across - within_x - within_y) / (2 * across))


def test_the_distance_is_that_of_the_held_out_drafts_to_their_refinements(method_with, tmp_path):
    method = method_with()
    student, teacher, objective = method.networks["student"], method._teacher, FpdConfig().objective
    random = seeded("monitor", 0)
    condition = teacher.condition(torch.randint(3, (8,), generator=random))
    with torch.no_grad():
        _, draft = draw_draft(student, teacher, condition, objective, random)
        target = draw_target(teacher, condition, draft, objective, generator=random)
        images = [teacher.decode(teacher.codebook[tokens], condition) for tokens in (draft, target.tokens)]
    report = method.monitor(method.networks, tmp_path)
    assert set(report) == MEASURED
    assert report["progress/pixels"] == pytest.approx(energy(*images), rel=1e-6)
    assert report["heldout/changed"] == pytest.approx(float(target.changed.mean()))


def test_first_last_and_every_nth_step_are_measured(method_with):
    method = method_with()
    assert [step for step in range(1, 6) if method.is_monitored(step)] == [1, 2, 4, 5]


def test_it_takes_no_random_number_of_the_run(method_with, tmp_path):
    unmonitored = method_with()._config.model_copy(update={"monitor": None})
    torch.manual_seed(5)
    FpdMethod(unmonitored, Parts(torch.device("cpu"), world=1, seed=0, steps=5))
    without = torch.get_rng_state()
    method = method_with()
    assert torch.equal(torch.get_rng_state(), without)
    method.monitor(method.networks, tmp_path)
    assert torch.equal(torch.get_rng_state(), without)


def test_the_teachers_images_are_drawn_once_and_again_where_anything_else_decides_them(
    method_with, tmp_path, monkeypatch
):
    drawn = []

    def counted(*arguments, **options):
        drawn.append(arguments)
        return original(*arguments, **options)

    original = teacher_samples.sample
    monkeypatch.setattr(teacher_samples, "sample", counted)
    numbers = [method_with().monitor(method_with().networks, tmp_path) for _ in range(2)]
    assert len(drawn) == 1
    assert numbers[0] == numbers[1]
    (tmp_path / CACHE).write_text("{")
    assert method_with().monitor(method_with().networks, tmp_path) == numbers[0]
    assert len(drawn) == 2
    method = method_with(teacher_steps=4)
    assert method.monitor(method.networks, tmp_path)["teacher/pixels"] != numbers[0]["teacher/pixels"]
    assert len(drawn) == 3


def test_without_the_teachers_images_there_is_no_recall(method_with, tmp_path):
    method = method_with(teacher_samples=0)
    assert set(method.monitor(method.networks, tmp_path)) == {name for name in MEASURED if "teacher/" not in name} - {
        "heldout/recall"
    }
    assert not (tmp_path / CACHE).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heldout_space": {"space": "pixel"}}, r"monitor\.heldout_space is pixels, where the loss is"),
        ({"teacher_steps": 65}, r"monitor\.teacher_steps 65 is above the 64 tokens"),
        ({"every": 0}, r"greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_answered(method_with, changes, message):
    with pytest.raises(ValueError, match=message):
        method_with(**changes)


def test_the_space_that_the_loss_never_sees_is_the_other_kind_by_default():
    for space, other in (("pixel", "feature"), ("feature", "pixel")):
        config = FpdConfig.model_validate({"lift": {"space": space}, "monitor": {}})
        assert config.monitor.heldout(config.lift).space == other


def test_the_demo_is_monitored():
    repository = Path(__file__).resolve().parents[3]
    assert load_config(repository / "configs/fashion.json").method.monitor is not None


@pytest.mark.distributed
def test_a_run_with_it_has_the_weights_of_one_without_on_two_ranks_too(launch, config, tmp_path):
    outputs = {}
    for name, ranks, section in (("without", 1, None), ("with", 1, SECTION), ("both", 2, SECTION)):
        method = config["method"] | {"monitor": section}
        code, output = launch(ranks, method=method, output=str(tmp_path / name), steps=3, log_every=3)
        assert code == 0, output
        outputs[name] = output
    without, beside = (load_file(tmp_path / name / "student/model.safetensors") for name in ("without", "with"))
    assert all(torch.equal(value, beside[name]) for name, value in without.items())
    for name in ("with", "both"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3]
        assert all(MEASURED | {"monitor_seconds", "signal"} <= line.keys() for line in lines)
        assert all(math.isfinite(value) for line in lines for value in line.values())
        assert "  progress " in outputs[name]
