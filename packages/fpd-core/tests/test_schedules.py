"""Reveal plans against the published tables, mask laws against their formulas."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import AmusedScheduler
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


@pytest.mark.parametrize(("side", "steps"), [(4, 5), (4, 3), (4, 6), (8, 9), (8, 16), (64, 3)])
def test_the_cosine_plan_is_that_of_diffusers_scheduler(side, steps):
    """Meissonic's own is a copy of it. Where N is divisible by 3, float32 leaves one token less masked than float64."""
    scheduler, codes = AmusedScheduler(mask_token_id=3), 3
    scheduler.set_timesteps(steps)
    tokens, left = torch.full((1, side, side), codes), []
    for timestep in scheduler.timesteps:
        random = torch.Generator().manual_seed(0)
        tokens = scheduler.step(torch.zeros(1, codes, side, side), timestep, tokens, generator=random).prev_sample
        left.append(int((tokens == codes).sum()))
    plan = reveal_plan(side**2, steps, "cosine", "floor")
    assert [side**2 - sum(plan[: k + 1]) for k in range(steps)] == left


def test_the_truncated_plan_counts_in_float32():
    """Of all N up to 576 the official plan of 24 x 24 cells differs from a float64 one at 297 alone."""

    def exact(steps):
        shares = [1 - 2 / math.pi * math.acos(k / steps) for k in range(steps + 1)]
        revealed = [max(k, math.floor(576 * share)) for k, share in enumerate(shares)]
        return [after - before for before, after in pairwise(revealed)]

    assert all(reveal_plan(576, steps, "arccos", "truncated") == exact(steps) for steps in (296, 298, 576))
    assert reveal_plan(576, 297, "arccos", "truncated") != exact(297)


@given(length=st.integers(1, 300), data=st.data(), schedule=st.sampled_from(["arccos", "cosine", "linear", "square"]))
def test_a_truncated_plan_is_never_behind_one_token_per_step(length, data, schedule):
    plan = reveal_plan(length, data.draw(st.integers(1, length)), schedule, "truncated")
    assert sum(plan) == length
    assert all(sum(plan[:k]) >= k for k in range(len(plan) + 1))


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
