"""The battery's distances against assignment problems, closed forms and loops; ratios against their definition."""

import math
import sys
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from fpd_eval.metrics import cmmd, monge_distance, sliced_wasserstein
from fpd_eval.metrics.ratios import in_units, split_in_halves
from fpd_eval.metrics.sliced_wasserstein import directions


def pair(rows=(9, 9), dimensions=4):
    random = np.random.default_rng(0)
    return random.normal(size=(rows[0], dimensions)), 1.4 * random.normal(size=(rows[1], dimensions)) + 0.3


def transported(real, fake, lines):
    """Mean over lines of the cheapest assignment's mean squared distance: no sorting anywhere."""
    costs = []
    for line in lines.numpy():
        cost = np.subtract.outer(real @ line, fake @ line) ** 2
        costs.append(cost[linear_sum_assignment(cost)].mean())
    return np.mean(costs)


def test_sliced_wasserstein_is_the_cheapest_assignment_on_every_line():
    real, fake = pair()
    expected = math.sqrt(transported(real, fake, directions(4, 150)))
    assert sliced_wasserstein(real, fake, projections=150) == pytest.approx(expected, rel=1e-12)


def test_one_dimension_is_the_best_of_all_permutations():
    real, fake = pair(rows=(5, 5), dimensions=1)
    best = min(np.mean((real - fake[list(order)]) ** 2) for order in permutations(range(5)))
    assert sliced_wasserstein(real, fake, projections=3) == pytest.approx(math.sqrt(best), rel=1e-12)
    assert monge_distance(real, fake, projections=3) == pytest.approx(3 * best, rel=1e-12)


def test_a_shift_costs_what_lines_see_of_it():
    """(u·v)² has mean |v|² / D over directions u, so MIND of a shift by v is about 3 |v|²."""
    real, _ = pair()
    shift = np.array([2.0, -1.0, 0.5, 0.0])
    seen = (directions(4, 1000).numpy() @ shift) ** 2
    assert monge_distance(real, real + shift) == pytest.approx(3 * 4 * seen.mean(), rel=1e-12)
    assert monge_distance(real, real + shift) == pytest.approx(3 * shift @ shift, rel=0.15)


def test_mind_is_three_d_times_the_squared_distance():
    real, fake = pair()
    expected = 3 * 4 * transported(real, fake, directions(4, 1000))
    assert monge_distance(real, fake) == pytest.approx(expected, rel=1e-12)


def test_mind_takes_as_many_rows_of_the_larger_set():
    real, fake = pair(rows=(30, 12))
    found = monge_distance(real, fake, projections=50)
    assert found == monge_distance(real, fake, projections=50)
    assert found != monge_distance(real[:12], fake, projections=50)
    assert monge_distance(real, real, max_images=8) > 0


def test_directions_are_unit_vectors_without_preference():
    lines = directions(3, 20_000)
    torch.testing.assert_close(lines.norm(dim=1), torch.ones(20_000, dtype=torch.float64))
    torch.testing.assert_close(lines.T @ lines / 20_000, torch.eye(3, dtype=torch.float64) / 3, atol=0.01, rtol=0)
    assert lines.mean(0).abs().max() < 0.02


def test_cmmd_equals_the_definition_by_loops():
    """google-research's cmmd: 1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), diagonals kept."""
    real, fake = pair(rows=(6, 4))

    def mean_kernel(x, y):
        return np.mean([[math.exp(-np.sum((a - b) ** 2) / 200) for b in y] for a in x])

    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (real, fake))
    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(real, fake) == pytest.approx(expected, rel=1e-9)


def test_cmmd_of_two_orthogonal_points():
    assert cmmd([[3.0, 0.0]], [[0.0, 0.5]]) == pytest.approx(1000 * (2 - 2 * math.exp(-2 / 200)), rel=1e-12)


def test_cmmd_is_the_same_in_blocks(monkeypatch):
    real, fake = pair(rows=(7, 5))
    whole = cmmd(real, fake)
    monkeypatch.setattr(sys.modules["fpd_eval.metrics.cmmd"], "ROWS", 2)
    assert cmmd(real, fake) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliced_wasserstein(np.zeros((3, 2)), np.zeros((4, 2))), "sets of one size, got 3 real and 4 fake"),
        (lambda: sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 2)), projections=0), "at least 1, got 0"),
        (lambda: monge_distance(np.zeros((3, 2)), np.zeros((3, 1))), "real features have 2 dimensions"),
        (lambda: cmmd(np.zeros((3, 2)), np.ones((3, 2))), "all zeros"),
        (lambda: split_in_halves(9, 5, 0), "two halves of 5 need 10 real images, there are 9"),
        (lambda: in_units(1.0, [0.0, 0.0]), "cannot be a unit"),
    ],
)
def test_what_cannot_be_measured_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_halves_are_disjoint_and_follow_the_split():
    first, second = split_in_halves(11, 5, 3)
    assert len({*first.tolist(), *second.tolist()}) == 10
    assert torch.equal(first, split_in_halves(11, 5, 3)[0])
    assert not torch.equal(first, split_in_halves(11, 5, 4)[0])


def test_units_are_the_mean_of_the_splits():
    assert in_units(6.0, [1.0, 2.0, 3.0]) == 3.0
