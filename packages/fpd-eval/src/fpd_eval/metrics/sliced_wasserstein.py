"""Sliced Wasserstein distance: exact transport along random lines, where it is sorting (Bonneel et al. 2015)."""

import math

import torch
from torch import Tensor

from fpd_eval.metrics.matrices import Features, matrices

PROJECTIONS, SEED = 1000, 0
AT_ONCE = 100  # directions per matrix product


def sliced_wasserstein(real: Features, fake: Features, *, projections: int = PROJECTIONS, seed: int = SEED) -> float:
    """Root mean square over random unit directions of the 2-Wasserstein distance between the projected sets.

    Directions depend on D, their number and the seed alone, so that distances in one space are of the same lines.

    Args:
        real: [N, D], any float dtype; computed in float64.
        fake: [N, D], as many rows.

    Raises:
        ValueError: not finite matrices of one shape, or no direction.
    """
    return math.sqrt(squared_sliced_wasserstein(real, fake, projections=projections, seed=seed))


def squared_sliced_wasserstein(
    real: Features, fake: Features, *, projections: int = PROJECTIONS, seed: int = SEED
) -> float:
    """The mean of the squares, whose root is `sliced_wasserstein`."""
    real, fake = matrices(real, fake)
    if len(real) != len(fake):
        raise ValueError(f"sorted matching needs sets of one size, got {len(real)} real and {len(fake)} fake features")
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    lines = directions(real.shape[1], projections, seed).to(real.device)
    along = [(_sorted(real, part) - _sorted(fake, part)).square().mean(0) for part in lines.split(AT_ONCE)]
    return float(torch.cat(along).mean())


def directions(dimensions: int, count: int, seed: int = SEED) -> Tensor:
    """`count` unit vectors, uniform on the sphere: float64 [count, dimensions] on the CPU."""
    drawn = torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lengths: Tensor = drawn.norm(dim=1, keepdim=True)
    return drawn / lengths


def _sorted(rows: Tensor, lines: Tensor) -> Tensor:
    """Projections of [N, D] on [P, D], each line sorted: [N, P]."""
    return (rows @ lines.T).sort(dim=0).values
