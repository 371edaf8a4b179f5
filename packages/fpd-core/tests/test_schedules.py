"""Reveal plans against the published tables, mask laws against their formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpd_core.schedules import mask_ratio, progress_at, reveal_plan

V1 = {
    2: [1, 255],
    4: [1, 59, 87, 109],
    8: [1, 18, 26, 32, 38, 43, 48, 50],
    12: [1, 9, 13, 17, 19, 22, 24, 26, 28, 30, 32, 35],
    16: [1, 6, 9, 10, 12, 14, 15, 16, 18, 19, 20, 21, 22, 23, 25, 25],
}
CORRECTED = {
    1: [256],
    2: [85, 171],
    4: [41, 44, 53, 118],
    8: [20, 21, 22, 22, 25, 28, 36, 82],
    16: [10, 10, 11, 10, 11, 11, 11, 11, 12, 13, 14, 14, 17, 19, 24, 58],
}


@pytest.mark.parametrize("steps", V1)
def test_v1_plans_of_maskgit(steps):
    assert reveal_plan(256, steps, "arccos", "v1") == V1[steps]


@pytest.mark.parametrize("steps", CORRECTED)
def test_corrected_plans(steps):
    assert reveal_plan(256, steps, "arccos", "corrected") == CORRECTED[steps]


def test_maskgen_leaves_the_published_numbers_masked():
    left = [128 - sum(reveal_plan(128, 16, "arccos", "floor")[: k + 1]) for k in range(16)]
    assert left == [122, 117, 112, 107, 102, 96, 91, 85, 79, 72, 66, 58, 50, 41, 28, 0]


def test_the_cosine_plan_of_meissonic():
    left = [4096 - sum(reveal_plan(4096, 64, "cosine", "floor")[: k + 1]) for k in range(64)]
    assert left[:-1] == [math.floor(4096 * math.cos(math.pi * (k + 1) / 128)) for k in range(63)]
    assert left[-1] == 0


@given(u=st.floats(0, 1), schedule=st.sampled_from(["arccos", "cosine", "linear", "square"]))
def test_progress_inverts_the_sampler_curve(u, schedule):
    ratio = mask_ratio(torch.tensor(u if schedule in ("arccos", "cosine") else 1 - u, dtype=torch.float64), schedule)
    assert float(progress_at(ratio, schedule)) == pytest.approx(u, abs=1e-6)


@given(
    length=st.integers(1, 300),
    data=st.data(),
    schedule=st.sampled_from(["arccos", "cosine", "linear", "square"]),
    rule=st.sampled_from(["v1", "corrected"]),
)
def test_every_plan_reveals_everything_and_no_step_is_idle(length, data, schedule, rule):
    steps = data.draw(st.integers(1, length))
    plan = reveal_plan(length, steps, schedule, rule)
    assert len(plan) == steps
    assert sum(plan) == length
    assert min(plan) >= 1


@pytest.mark.parametrize("steps", [0, -1, 65])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match="between 1 and the 64 tokens"):
        reveal_plan(64, steps)


def test_mask_laws():
    u = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    expected = {
        "arccos": [1.0, 2 / math.pi * math.acos(0.25), 0.0],
        "cosine": [1.0, math.cos(math.pi / 8), 0.0],
        "linear": [0.0, 0.25, 1.0],
        "square": [0.0, 0.0625, 1.0],
    }
    for schedule, values in expected.items():
        torch.testing.assert_close(mask_ratio(u, schedule), torch.tensor(values, dtype=torch.float64))


def test_the_mean_ratio_of_arccos_is_two_over_pi():
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    assert mask_ratio(u, "arccos").mean().item() == pytest.approx(2 / math.pi, abs=1e-6)
