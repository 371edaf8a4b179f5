"""The Fréchet distance as a loss, against a general matrix root, a formula by hand and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from fpd_core.frechet import frechet_loss


def gaussian(seed, size=5, rank=7):
    factor = torch.randn(size, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor[:, 0].clone(), factor @ factor.T / rank


def test_value_is_that_of_a_general_matrix_root():
    (m, c), (rm, rc) = gaussian(0), gaussian(1)
    root = scipy.linalg.sqrtm((c @ rc).numpy())
    expected = float((m - rm).square().sum()) + np.trace(c.numpy() + rc.numpy() - 2 * root.real)
    assert float(frechet_loss(m, c, rm, rc)) == pytest.approx(expected, rel=1e-9)


def test_in_one_dimension_it_is_the_difference_of_means_and_deviations():
    """(3 - 1)² + (2 - 5)² for N(3, 4) and N(1, 25)."""
    one = torch.ones(1), torch.ones(1, 1)
    assert float(frechet_loss(3 * one[0], 4 * one[1], one[0], 25 * one[1])) == pytest.approx(13)


def test_gradients_agree_with_finite_differences():
    (m, c), (rm, rc) = gaussian(2), gaussian(3)
    symmetric = lambda factor: factor @ factor.T  # noqa: E731
    factor = torch.linalg.cholesky(c).requires_grad_(True)
    torch.autograd.gradcheck(lambda mean, f: frechet_loss(mean, symmetric(f), rm, rc), (m.requires_grad_(True), factor))


def test_equal_gaussians_are_at_distance_zero_without_a_pull():
    m, c = gaussian(4)
    m.requires_grad_(True)
    leaf = c.clone().requires_grad_(True)
    distance = frechet_loss(m, leaf, m.detach(), c)
    distance.backward()
    assert float(distance.detach()) == pytest.approx(0, abs=1e-10)
    assert float(m.grad.norm() + leaf.grad.norm()) < 1e-8


def test_directions_without_variance_have_finite_gradients():
    m, c = gaussian(5, size=5, rank=2)
    leaf = c.clone().requires_grad_(True)
    frechet_loss(m, leaf, *gaussian(6)).backward()
    assert bool(leaf.grad.isfinite().all())
