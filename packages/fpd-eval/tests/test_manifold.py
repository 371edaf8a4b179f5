"""Precision, recall, density, coverage against prdc and loops over exact integers."""

import contextlib
import io
import operator
from fractions import Fraction

import numpy as np
import pytest
import torch
from prdc import compute_prdc

from fpd_eval.metrics import density_coverage, manifold_scores, precision_recall


def from_prdc(real, fake, k):
    with contextlib.redirect_stdout(io.StringIO()):
        found = compute_prdc(real, fake, k)
    return [float(found[name]) for name in ("precision", "recall", "density", "coverage")]


def by_loops(real, fake, k, compare):
    """The papers' definitions over exact squared distances of integer points, in fractions."""

    def squared(a, b):
        return sum((int(x) - int(y)) ** 2 for x, y in zip(a, b, strict=True))

    def radius(points, i):
        return sorted(squared(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, j) for j in range(len(fake))]
    in_real = [[compare(squared(f, r), s) for r, s in zip(real, real_radii, strict=True)] for f in fake]
    in_fake = [[compare(squared(r, f), s) for f, s in zip(fake, fake_radii, strict=True)] for r in real]
    precision = Fraction(sum(any(row) for row in in_real), len(fake))
    recall = Fraction(sum(any(row) for row in in_fake), len(real))
    density = Fraction(sum(sum(row) for row in in_real), k * len(fake))
    coverage = Fraction(sum(any(column) for column in zip(*in_real, strict=True)), len(real))
    return [float(value) for value in (precision, recall, density, coverage)]


def ours(real, fake, k, **options):
    apart = [*precision_recall(real, fake, k, **options), *density_coverage(real, fake, k, **options)]
    together = manifold_scores(real, fake, precision_recall_k=k, density_coverage_k=k, **options)
    assert [together.precision, together.recall, together.density, together.coverage] == apart
    return apart


@pytest.mark.parametrize(("k", "block_size"), [(1, 1024), (3, 7), (5, 50)])
def test_equals_prdc_on_continuous_features(k, block_size):
    random = np.random.default_rng(k)
    real, fake = random.normal(size=(130, 6)), 0.7 * random.normal(size=(90, 6)) + 0.4
    expected = from_prdc(real, fake, k)
    assert 0 < expected[0] < 1
    assert 0 < expected[1] < 1
    assert ours(real, fake, k, block_size=block_size) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("block_size", [1, 5, 64])
def test_two_neighbour_counts_in_one_pass(block_size):
    random = np.random.default_rng(11)
    real, fake = random.normal(size=(61, 4)), 0.8 * random.normal(size=(83, 4)) + 0.2
    for k, other in ((2, 5), (5, 2)):
        found = manifold_scores(real, fake, precision_recall_k=k, density_coverage_k=other, block_size=block_size)
        expected = from_prdc(real, fake, k)[:2] + from_prdc(real, fake, other)[2:]
        assert [found.precision, found.recall, found.density, found.coverage] == pytest.approx(expected, abs=1e-12)


def test_equals_prdc_far_from_the_origin():
    """Features of a network after ReLU have a common offset that cancels in the distances."""
    random = np.random.default_rng(9)
    real, fake = random.normal(size=(80, 4)) + 1e5, random.normal(size=(70, 4)) + 1e5
    assert ours(real, fake, 3) == pytest.approx(from_prdc(real - 1e5, fake - 1e5, 3), abs=1e-12)


@pytest.mark.parametrize(("inclusive", "compare"), [(False, operator.lt), (True, operator.le)])
@pytest.mark.parametrize("k", [1, 3])
def test_ties_on_an_integer_grid_follow_the_chosen_comparison(inclusive, compare, k):
    random = np.random.default_rng(k)
    real, fake = random.integers(0, 6, size=(45, 2)), random.integers(0, 7, size=(38, 2))
    expected = by_loops(real, fake, k, compare)
    assert by_loops(real, fake, k, operator.lt) != by_loops(real, fake, k, operator.le)
    assert ours(real, fake, k, inclusive=inclusive, block_size=16) == pytest.approx(expected, abs=1e-12)


def test_the_default_comparison_is_that_of_prdc():
    random = np.random.default_rng(2)
    real, fake = random.integers(0, 5, size=(60, 2)).astype(float), random.integers(0, 6, size=(50, 2)).astype(float)
    assert ours(real, fake, 3) == pytest.approx(from_prdc(real, fake, 3), abs=1e-12)


def test_duplicates_count_as_other_points():
    """Every real point twice: radius 0 for k = 1, so nothing is strictly inside, equal points are inclusively."""
    real = np.repeat(np.arange(6.0)[:, None] * [1.0, 0.5], 2, axis=0)
    fake = real + [[0.0, 0.0], [0.25, 0.0]] * 6
    assert precision_recall(real, fake, 1)[0] == 0
    assert precision_recall(real, fake, 1, inclusive=True)[0] == 0.5


def test_ties_of_features_that_are_no_round_numbers_are_exact():
    """A fake row equal to the neighbour that sets the radius lies on the sphere, not in it."""
    for dimensions in (3, 17, 128, 1281):
        real = torch.rand(2, dimensions, generator=torch.Generator().manual_seed(dimensions)) * 3.7
        fake = real[1:].repeat(2, 1)
        strict = density_coverage(real[[0, 1]], fake, 1)
        # Only the ball around real row 1 itself holds the fakes: 1 of 2 balls.
        assert strict == (1.0, 0.5), dimensions
        assert density_coverage(real, fake, 1, inclusive=True) == (2.0, 1.0), dimensions


def test_float32_tensors_and_arrays_agree():
    real, fake = (torch.randn(40, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert ours(real, fake, 2) == ours(real.numpy(), fake.numpy(), 2)


@pytest.mark.parametrize("measure", [precision_recall, density_coverage])
@pytest.mark.parametrize(
    ("real", "fake", "k", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), 1, "3 dimensions, fake features 2"),
        (np.zeros((4, 3)), np.full((4, 3), np.inf), 1, "NaN or infinity"),
        (np.zeros((3, 2)), np.zeros((9, 2)), 3, "3 rows, at least 4"),
        (np.zeros((3, 2)), np.zeros((9, 2)), 0, "k and block_size must be at least 1"),
    ],
)
def test_unusable_input_is_refused(measure, real, fake, k, message):
    with pytest.raises(ValueError, match=message):
        measure(real, fake, k)
