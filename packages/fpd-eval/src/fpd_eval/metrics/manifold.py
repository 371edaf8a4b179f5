"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797): how far two feature sets lie inside each other's k-nearest-neighbour balls.

All comparisons are exact. A matrix product screens all pairs quickly; the few it cannot decide within its rounding
error are decided by explicit differences, so equal points and ties come out as written in the papers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fpd_eval.metrics.matrices import Features, matrices

BLOCK_SIZE = 1024
PAIR_VALUES = 2**22  # feature values compared explicitly at once


def precision_recall(
    real: Features, fake: Features, k: int = 3, *, inclusive: bool = False, block_size: int = BLOCK_SIZE
) -> tuple[float, float]:
    """Share of fake rows inside some real ball, and share of real rows inside some fake ball.

    The ball of a row reaches to its k-th nearest other row of the same set; equal rows count as other rows.

    Args:
        real: [N_real, D], any float dtype; computed in float64.
        fake: [N_fake, D].
        inclusive: count the sphere as inside (≤: Kynkäänniemi, torch-fidelity). The default < is that of `prdc`.
            They differ only on data with exact ties.
        block_size: rows compared at once; memory grows with block_size · max(N_real, N_fake).

    Returns:
        (precision, recall), both in [0, 1].

    Raises:
        ValueError: not finite matrices with the same D, or a set has no k-th other row.
    """
    real, fake = _checked(real, fake, k, block_size)
    precision = _share_inside(fake, real, _squared_radii(real, k, block_size), inclusive, block_size)
    recall = _share_inside(real, fake, _squared_radii(fake, k, block_size), inclusive, block_size)
    return precision, recall


def density_coverage(
    real: Features, fake: Features, k: int = 5, *, inclusive: bool = False, block_size: int = BLOCK_SIZE
) -> tuple[float, float]:
    """Mean number of real balls around a fake row divided by k, and share of real balls that hold a fake row.

    Arguments and errors as in `precision_recall`.

    Returns:
        (density, coverage): density ≥ 0 and may exceed 1, coverage in [0, 1].
    """
    real, fake = _checked(real, fake, k, block_size)
    limits = _squared_radii(real, k, block_size)
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for block in _inside(fake, real, limits, inclusive, block_size):
        inside += int(block.sum())
        covered |= block.any(dim=0)
    return inside / (k * len(fake)), float(covered.double().mean())


def _checked(real: Features, fake: Features, k: int, block_size: int) -> tuple[Tensor, Tensor]:
    if k < 1 or block_size < 1:
        raise ValueError(f"k and block_size must be at least 1, got {k} and {block_size}")
    return matrices(real, fake, min_rows=k + 1)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Explicit differences of paired rows, [M, D] and [M, D] -> [M]; zero exactly for equal rows."""
    return (a - b).square().sum(dim=1)


def _screened(a: Tensor, b: Tensor, block_size: int) -> Iterator[tuple[int, Tensor, float]]:
    """|a_i|² - 2 a_i·b_j + |b_j|² in blocks of rows of `a`: (first row, [rows, N_b], bound of its rounding error)."""
    largest = float(torch.maximum(a.abs().max(), b.abs().max()))
    centre = b.mean(0)
    a, b = a - centre, b - centre
    a_norms, b_norms = a.square().sum(1), b.square().sum(1)
    reach = float(torch.maximum(a_norms.max(), b_norms.max()))
    # The sums of D rounded products, and the rounding of the centred coordinates themselves.
    error = 4 * a.shape[1] * torch.finfo(a.dtype).eps * (reach + reach**0.5 * largest)
    for start in range(0, len(a), block_size):
        rows = slice(start, start + block_size)
        squared = torch.addmm(b_norms, a[rows], b.T, alpha=-2).add_(a_norms[rows, None])
        yield start, squared, error


def _squared_radii(points: Tensor, k: int, block_size: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other row: [N, D] -> [N]."""
    radii = []
    for start, squared, _ in _screened(points, points, block_size):
        own = torch.arange(len(squared), device=points.device)
        squared[own, own + start] = torch.inf
        nearest = squared.topk(k, dim=1, largest=False).indices
        centres = points[start : start + len(squared)].repeat_interleave(k, dim=0)
        exact = _squared_distances(centres, points[nearest.flatten()])
        radii.append(exact.view(-1, k).amax(dim=1))
    return torch.cat(radii)


def _inside(a: Tensor, b: Tensor, limits: Tensor, inclusive: bool, block_size: int) -> Iterator[Tensor]:
    """Which balls of `b` (squared radii `limits` [N_b]) hold which rows of `a`, in blocks: bool [rows, N_b]."""
    for start, squared, error in _screened(a, b, block_size):
        gap = squared.sub_(limits)
        inside = gap < 0
        doubtful = (gap.abs_() <= error).nonzero()
        for i, j in (pairs.unbind(dim=1) for pairs in torch.split(doubtful, max(1, PAIR_VALUES // a.shape[1]))):
            exact = _squared_distances(a[start + i], b[j])
            inside[i, j] = exact <= limits[j] if inclusive else exact < limits[j]
        yield inside


def _share_inside(a: Tensor, b: Tensor, limits: Tensor, inclusive: bool, block_size: int) -> float:
    """Share of rows of `a` inside at least one ball of `b`."""
    held = sum(int(block.any(dim=1).sum()) for block in _inside(a, b, limits, inclusive, block_size))
    return held / len(a)
