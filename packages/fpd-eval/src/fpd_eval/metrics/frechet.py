"""Fréchet distance between Gaussians fitted to two feature sets (Heusel et al. 2017, arXiv:1706.08500, eq. 6)."""

import warnings

import torch
from torch import Tensor

from fpd_eval.metrics.matrices import Features, matrices


def frechet_distance(real: Features, fake: Features) -> float:
    """|μ_r - μ_f|² + tr Σ_r + tr Σ_f - 2 tr (Σ_r Σ_f)^½. Symmetric in its arguments.

    Covariances divide by N - 1. No epsilon is added to them: the symmetric form needs none, even where they are
    singular. Feature sets with fewer rows than dimensions are answered, with a warning: the value is then dominated
    by the sample size.

    Args:
        real: [N_real, D], any float dtype; computed in float64.
        fake: [N_fake, D].

    Returns:
        The squared distance, as FID and FD are reported. Rounding may leave it about -1e-9 times the traces for
        equal sets.

    Raises:
        ValueError: not finite matrices with the same D and at least two rows each.
    """
    real, fake = matrices(real, fake, min_rows=2)
    for name, features in (("real", real), ("fake", fake)):
        rows, dimensions = features.shape
        if rows < dimensions:
            warnings.warn(
                f"{rows} {name} features of {dimensions} dimensions: their covariance is singular "
                "and the Fréchet distance depends mostly on the sample size",
                stacklevel=2,
            )
    cov_real, cov_fake = _covariance(real), _covariance(fake)
    mean_term = (real.mean(0) - fake.mean(0)).square().sum()
    return float(mean_term + cov_real.trace() + cov_fake.trace() - 2 * _trace_sqrt_product(cov_real, cov_fake))


def _covariance(features: Tensor) -> Tensor:
    """[N, D] -> [D, D]."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _trace_sqrt_product(a: Tensor, b: Tensor) -> Tensor:
    """tr (AB)^½ for positive semi-definite [D, D], as the root eigenvalues of A^½ B A^½.

    That matrix is symmetric and shares its eigenvalues with AB; `eigh` is 3 times faster than a general solver.
    Eigenvalues that rounding made negative are zero.
    """
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product: Tensor = torch.linalg.eigvalsh(root @ b @ root)
    return product.clamp(min=0).sqrt().sum()
