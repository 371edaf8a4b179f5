"""Distillation as a method: what it takes from the run."""

from functools import partial
from pathlib import Path

import pytest
import torch

from fpd_core.conditioning import ClassCondition
from fpd_core.config import CheckpointError
from fpd_train.batch import Batch
from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.interface import Parts

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def method_of(teacher_folder):
    def build(steps, start=None, **remask):
        section = {"teacher": {"name": "fashion", "path": str(teacher_folder)}, "lift": {"space": "pixel"}}
        config = FpdConfig.model_validate(section | {"start": start, "objective": {"remask": remask}})
        return FpdMethod(config, Parts(torch.device("cpu"), world=1, seed=0, steps=steps))

    return build


def test_the_law_of_the_share_is_a_function_of_the_step(method_of):
    method = method_of(8, clamp=[0.2, 0.2], hold=0.5, end={"clamp": [0.6, 0.6]})
    batch = Batch(ClassCondition(torch.tensor([0, 1])))
    loss = partial(method.loss, "student", batch, method.networks, torch.Generator())
    shares = [loss(step)[1]["mask_ratio"] for step in (0, 4, 6, 7)]
    assert shares == pytest.approx([0.2, 0.2, 0.4, 0.5])


def test_passes_that_could_keep_nothing_are_refused(method_of):
    with pytest.raises(ValueError, match=r"remask\.passes 14 is above the 13 of 64 tokens"):
        method_of(8, clamp=[0.1, 0.2], passes=14)


def test_a_student_goes_on_and_its_teacher_stays_the_teacher(method_of, tmp_path):
    """Weights that fit in half precision come back as they were."""
    first = method_of(8)
    moved = {name: (value + 0.25).half().float() for name, value in first.networks["student"].state_dict().items()}
    first.networks["student"].load_state_dict(moved)
    first.export(tmp_path / "student", first.networks, "")
    again = method_of(8, start=tmp_path / "student")
    assert all(torch.equal(value, moved[name]) for name, value in again.networks["student"].state_dict().items())
    teacher = first.frozen["teacher"].state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in again.frozen["teacher"].state_dict().items())


def test_a_student_of_another_teacher_cannot_go_on(method_of):
    with pytest.raises(CheckpointError, match=r"assets/scenes/student.*missing"):
        method_of(8, start=REPO / "assets/scenes/student")


def test_adapters_cannot_go_on_from_other_weights():
    with pytest.raises(ValueError, match="leave one at null"):
        FpdConfig.model_validate({"start": "runs/fashion/student", "adapter": {"rank": 4}})


@pytest.mark.parametrize(
    ("section", "seen"),
    [
        ({}, ("efficientnet_lite0",)),
        ({"lift": {"space": "pixel"}}, ("pixels",)),
        ({"lift": {"backbone": {"name": "dinov3"}}, "gan": {}}, ("dinov3", "deit", "efficientnet_lite0")),
    ],
)
def test_the_networks_of_the_loss_are_those_of_lift_and_discriminator(section, seen):
    assert FpdConfig.model_validate(section).encoders() == seen
