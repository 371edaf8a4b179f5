"""Fréchet distance between Gaussians fitted to two feature sets (Heusel et al. 2017, arXiv:1706.08500, eq. 6)."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fpd_eval.metrics.matrices import Features, matrices, matrix


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D] of a feature set, float64 on the CPU or the features' device.

    `count` is the number of rows they were computed from; None where a published file does not say.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None

    @cached_property
    def root(self) -> Tensor:
        """Σ^½, kept: the real side meets every system. Eigenvalues that rounding made negative are zero."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return root


def gaussian(features: Features, name: str = "real") -> Gaussian:
    """Sample mean and covariance (divided by N - 1) of [N, D] features; `name` is what errors call them.

    Raises:
        ValueError: not a finite matrix of at least two rows.
    """
    rows = matrix(features, name, min_rows=2)
    return Gaussian(rows.mean(0), _covariance(rows), len(rows))


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
    return frechet_between(gaussian(real, "real"), gaussian(fake, "fake"))


def frechet_between(real: Gaussian, fake: Gaussian) -> float:
    """The Fréchet distance of two Gaussians; see `frechet_distance`.

    Raises:
        ValueError: they differ in D.
    """
    if len(real.mean) != len(fake.mean):
        raise ValueError(f"the real statistics have {len(real.mean)} dimensions, the fake ones {len(fake.mean)}")
    for name, side in (("real", real), ("fake", fake)):
        if side.count is not None and side.count < len(side.mean):
            warnings.warn(
                f"{side.count} {name} features of {len(side.mean)} dimensions: their covariance is singular "
                "and the Fréchet distance depends mostly on the sample size",
                stacklevel=3,
            )
    mean_term = (real.mean - fake.mean).square().sum()
    root_trace = _trace_sqrt_product(real.root, fake.covariance)
    return float(mean_term + real.covariance.trace() + fake.covariance.trace() - 2 * root_trace)


def _covariance(features: Tensor) -> Tensor:
    """[N, D] -> [D, D]."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _trace_sqrt_product(root: Tensor, b: Tensor) -> Tensor:
    """tr (AB)^½ for positive semi-definite A = root², B [D, D], as the root eigenvalues of A^½ B A^½.

    That matrix is symmetric and shares its eigenvalues with AB; `eigh` is 3 times faster than a general solver.
    Eigenvalues that rounding made negative are zero.
    """
    product: Tensor = torch.linalg.eigvalsh(root @ b @ root)
    return product.clamp(min=0).sqrt().sum()
