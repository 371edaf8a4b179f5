"""The Fréchet distance of two Gaussians as a loss (Heusel et al. 2017, arXiv:1706.08500, eq. 6)."""

import torch
from torch import Tensor

SMALLEST = 1e-8  # of an eigenvalue, in units of the largest: below it the root's slope is noise


def frechet_loss(mean: Tensor, covariance: Tensor, real_mean: Tensor, real_covariance: Tensor) -> Tensor:
    """|μ - μ_r|² + tr Σ + tr Σ_r - 2 tr (Σ_r^½ Σ Σ_r^½)^½, a float64 scalar with a gradient to μ and Σ.

    Args:
        mean, covariance: [D] and [D, D] of what is trained.
        real_mean, real_covariance: [D] and [D, D], constant.
    """
    mean, covariance = mean.double(), covariance.double()
    real_mean, real_covariance = real_mean.detach().double(), real_covariance.detach().double()
    values, vectors = torch.linalg.eigh(real_covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ covariance @ root)
    # Clamped directions, along which one side does not vary at all, have no gradient instead of an infinite one.
    overlap = shared.clamp_min(SMALLEST * float(shared.detach().max().clamp_min(1e-300))).sqrt().sum()
    distance: Tensor = (mean - real_mean).square().sum() + covariance.trace() + real_covariance.trace() - 2 * overlap
    return distance
