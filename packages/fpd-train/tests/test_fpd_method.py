"""Distillation as a method: what it takes from the run."""

from functools import partial

import pytest
import torch

from fpd_core.conditioning import ClassCondition
from fpd_train.batch import Batch
from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.interface import Parts


@pytest.fixture
def method_of(teacher_folder):
    def build(steps, **remask):
        section = {"teacher": {"name": "fashion", "path": str(teacher_folder)}, "lift": {"space": "pixel"}}
        config = FpdConfig.model_validate(section | {"objective": {"remask": remask}})
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
