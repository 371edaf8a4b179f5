"""Energy distances against double loops, a closed form, and what must hold where both laws are one."""

import math

import pytest
import torch

from fpd_core.progress import energy_between, energy_of_pairs, recall


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_distance(pairs):
    found = [math.dist(a.tolist(), b.tolist()) for a, b in pairs]
    return sum(found) / len(found)


def energy_by_loops(x, y, paired):
    """One cell: [N, D] and [M, D]."""
    across = mean_distance([(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if i != j or not paired])
    within = [mean_distance([(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    return 2 * across - sum(within), across


@pytest.mark.parametrize(("function", "paired", "count"), [(energy_of_pairs, True, 5), (energy_between, False, 7)])
def test_cells_equal_double_loops(function, paired, count):
    x, y = randn(0, 5, 3, 4) + 50, 0.5 * randn(1, count, 3, 4) + 50.3
    found = function(x, y)
    expected = [energy_by_loops(x[:, f], y[:, f], paired) for f in range(3)]
    torch.testing.assert_close(found.cells.tolist(), [e for e, _ in expected], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.across.tolist(), [a for _, a in expected], rtol=1e-9, atol=1e-9)
    total, across = (sum(values) for values in zip(*expected, strict=True))
    assert found.coefficient == pytest.approx(total / (2 * across), rel=1e-9)


def test_two_normal_laws_in_one_dimension_have_the_closed_form():
    """E|Z| of Z ~ N(m, s²) is s sqrt(2/π) exp(-m²/2s²) + m erf(m / s sqrt 2)."""

    def absolute(mean, sd):
        bell = sd * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * sd**2))
        return bell + mean * math.erf(mean / (sd * math.sqrt(2)))

    expected = 2 * absolute(1, math.sqrt(5)) - absolute(0, math.sqrt(2)) - absolute(0, math.sqrt(8))
    x, noise = randn(2, 400, 60, 1), randn(3, 400, 60, 1)
    dependent = 1 + 2 * (0.8 * x + 0.6 * noise)
    for found in (energy_of_pairs(x, dependent), energy_between(x, 1 + 2 * noise)):
        assert found.cells.mean().item() == pytest.approx(expected, abs=0.05)
        assert found.coefficient == pytest.approx(expected / (2 * absolute(1, math.sqrt(5))), abs=0.01)


def test_at_the_fixed_point_pairs_have_no_distance_and_counting_each_with_itself_would_make_one():
    """An autoregressive kernel leaves N(0, I) as it is; X and Y are one law, and depend on each other."""
    means, kept = [], []
    for seed in range(300):
        x, noise = randn(seed, 16, 1, 6), randn(1000 + seed, 16, 1, 6)
        y = 0.9 * x + math.sqrt(1 - 0.81) * noise
        means.append(energy_of_pairs(x, y).cells.item())
        kept.append(energy_between(x, y).cells.item())
    for values, low, high in ((means, 0, 4), (kept, 20, math.inf)):
        values = torch.tensor(values)
        assert low <= abs(values.mean()) / (values.std() / len(values) ** 0.5) <= high


def test_scale_and_offset_do_not_change_the_coefficient():
    x, y = randn(4, 6, 2, 3), randn(5, 6, 2, 3)
    assert energy_of_pairs(7 * x + 3, 7 * y + 3).coefficient == pytest.approx(energy_of_pairs(x, y).coefficient)


def test_features_that_do_not_vary_have_no_distance():
    assert energy_of_pairs(torch.ones(3, 2, 4), torch.ones(3, 2, 4)).coefficient == 0


def test_recall_is_the_share_within_the_balls():
    reference, samples = randn(6, 40, 2, 3), 0.7 * randn(7, 30, 2, 3)
    points, inside = [z.flatten().tolist() for z in samples], 0
    radii = [sorted(math.dist(a, b) for b in points)[3] for a in points]
    for z in reference:
        inside += any(math.dist(z.flatten().tolist(), a) <= r for a, r in zip(points, radii, strict=True))
    assert 0 < inside < 40
    assert recall(reference, samples) == inside / 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: energy_of_pairs(torch.zeros(2, 1, 3), torch.zeros(3, 1, 3)), "one shape"),
        (lambda: energy_of_pairs(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)), "at least 2"),
        (lambda: energy_between(torch.zeros(2, 1, 3), torch.zeros(3, 2, 3)), "N, M > 1"),
        (lambda: recall(torch.zeros(2, 1, 3), torch.zeros(3, 1, 3)), "more than 3 samples"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
