"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797): how far two feature sets lie inside each other's k-nearest-neighbour balls.

All comparisons are exact. A matrix product screens all pairs quickly; the few it cannot decide within its rounding
error are decided by explicit differences, so equal points and ties come out as written in the papers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fpd_eval.metrics.matrices import Features, matrices

BLOCK_SIZE = 1024
PAIR_VALUES = 2**22  # feature values compared explicitly at once


@dataclass(frozen=True)
class ManifoldScores:
    """All but `density`, which may exceed 1, are shares."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(
    real: Features,
    fake: Features,
    *,
    precision_recall_k: int = 3,
    density_coverage_k: int = 5,
    inclusive: bool = False,
    block_size: int = BLOCK_SIZE,
) -> ManifoldScores:
    """All four numbers in one pass over the pairs of real and fake rows; see `precision_recall`, `density_coverage`.

    Raises:
        ValueError: not finite matrices with the same D, or a set has no k-th other row.
    """
    k_max = max(precision_recall_k, density_coverage_k)
    pair = _prepared(real, fake, min(precision_recall_k, density_coverage_k), k_max, block_size)
    near_real = _nearest(pair.real, k_max, block_size)
    near_fake = _nearest(pair.fake, precision_recall_k, block_size)
    limits = near_real[:, precision_recall_k - 1], near_fake[:, -1]
    precise, recalled = _Hits(pair.real), _Hits(pair.real)
    dense = _Hits(pair.real)
    for start, squared in _blocks(pair.fake, pair.real, block_size):
        rows = slice(start, start + len(squared))
        precise.add(_within(squared, pair, start, limits[0][None, :], inclusive))
        recalled.add(_within(squared, pair, start, limits[1][rows, None], inclusive))
        dense.add(_within(squared, pair, start, near_real[None, :, density_coverage_k - 1], inclusive))
    count = len(pair.fake.rows)
    return ManifoldScores(
        precision=precise.rows / count,
        recall=recalled.share_of_columns,
        density=dense.pairs / (density_coverage_k * count),
        coverage=dense.share_of_columns,
    )


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
        block_size: rows compared at once; beside the features memory grows with block_size · max(N_real, N_fake).

    Returns:
        (precision, recall), both in [0, 1].

    Raises:
        ValueError: not finite matrices with the same D, or a set has no k-th other row.
    """
    pair = _prepared(real, fake, k, k, block_size)
    real_limits = _nearest(pair.real, k, block_size)[:, -1]
    fake_limits = _nearest(pair.fake, k, block_size)[:, -1]
    precise, recalled = _Hits(pair.real), _Hits(pair.real)
    for start, squared in _blocks(pair.fake, pair.real, block_size):
        precise.add(_within(squared, pair, start, real_limits[None, :], inclusive))
        recalled.add(_within(squared, pair, start, fake_limits[start : start + len(squared), None], inclusive))
    return precise.rows / len(pair.fake.rows), recalled.share_of_columns


def density_coverage(
    real: Features, fake: Features, k: int = 5, *, inclusive: bool = False, block_size: int = BLOCK_SIZE
) -> tuple[float, float]:
    """Mean number of real balls around a fake row divided by k, and share of real balls that hold a fake row.

    Arguments and errors as in `precision_recall`.

    Returns:
        (density, coverage): density ≥ 0 and may exceed 1, coverage in [0, 1].
    """
    pair = _prepared(real, fake, k, k, block_size)
    limits = _nearest(pair.real, k, block_size)[:, -1]
    dense = _Hits(pair.real)
    for start, squared in _blocks(pair.fake, pair.real, block_size):
        dense.add(_within(squared, pair, start, limits[None, :], inclusive))
    return dense.pairs / (k * len(pair.fake.rows)), dense.share_of_columns


@dataclass(frozen=True)
class _Points:
    """`rows` [N, D] as given; `centred` around a common point, with squared `norms` [N], for matrix products."""

    rows: Tensor
    centred: Tensor
    norms: Tensor


@dataclass(frozen=True)
class _Pair:
    """Both sets, and a bound of the rounding error of a squared distance from a matrix product."""

    real: _Points
    fake: _Points
    error: float


class _Hits:
    """Counts of pairs in balls, over blocks of fake rows; columns are the real rows."""

    def __init__(self, real: _Points) -> None:
        self.rows = self.pairs = 0
        self._columns = torch.zeros(len(real.rows), dtype=torch.bool, device=real.rows.device)

    def add(self, inside: Tensor) -> None:
        self.rows += int(inside.any(dim=1).sum())
        self.pairs += int(inside.sum())
        self._columns |= inside.any(dim=0)

    @property
    def share_of_columns(self) -> float:
        return float(self._columns.double().mean())


def _prepared(real: Features, fake: Features, k_min: int, k_max: int, block_size: int) -> _Pair:
    if k_min < 1 or block_size < 1:
        raise ValueError(f"k and block_size must be at least 1, got {k_min} and {block_size}")
    real, fake = matrices(real, fake, min_rows=k_max + 1)
    largest, centre = float(torch.maximum(real.abs().max(), fake.abs().max())), real.mean(0)
    real_points, fake_points = (
        _Points(rows, centred := rows - centre, centred.square().sum(1)) for rows in (real, fake)
    )
    reach = max(float(points.norms.max()) for points in (real_points, fake_points))
    # The sums of D rounded products, and the rounding of the centred coordinates themselves.
    error = 4 * real.shape[1] * torch.finfo(real.dtype).eps * (reach + reach**0.5 * largest)
    return _Pair(real_points, fake_points, error)


def _squared(a: _Points, b: _Points, a_rows: slice, b_rows: slice) -> Tensor:
    """|a_i|² - 2 a_i·b_j + |b_j|² of centred rows, [a_rows, b_rows], rounded."""
    products = torch.addmm(b.norms[b_rows], a.centred[a_rows], b.centred[b_rows].T, alpha=-2)
    return products.add_(a.norms[a_rows, None])


def _blocks(a: _Points, b: _Points, block_size: int) -> Iterator[tuple[int, Tensor]]:
    """All rounded squared distances by blocks of rows of `a`: (first row, [rows, N_b])."""
    for start in range(0, len(a.rows), block_size):
        yield start, _squared(a, b, slice(start, start + block_size), slice(None))


def _nearest(points: _Points, k: int, block_size: int) -> Tensor:
    """Exact squared distances of each row to its k nearest other rows, rising: [N, D] -> [N, k].

    Each block of pairs is multiplied once and serves its rows and its columns.
    """
    count, device = len(points.rows), points.rows.device
    values = torch.full((count, k), torch.inf, dtype=points.rows.dtype, device=device)
    indices = torch.zeros((count, k), dtype=torch.long, device=device)

    def merge(rows: slice, squared: Tensor, first_column: int) -> None:
        found = squared.topk(min(k, squared.shape[1]), dim=1, largest=False)
        both = torch.cat([values[rows], found.values], dim=1)
        columns = torch.cat([indices[rows], found.indices + first_column], dim=1)
        values[rows], kept = both.topk(k, dim=1, largest=False)
        indices[rows] = columns.gather(1, kept)

    starts = range(0, count, block_size)
    for i in starts:
        for j in range(i, count, block_size):
            rows, columns = slice(i, i + block_size), slice(j, j + block_size)
            squared = _squared(points, points, rows, columns)
            if i == j:
                squared.fill_diagonal_(torch.inf)
            else:
                merge(columns, squared.T, i)
            merge(rows, squared, j)
    exact = [
        _squared_distances(points.rows[i : i + block_size], points.rows, indices[i : i + block_size]) for i in starts
    ]
    return torch.cat(exact).sort(dim=1).values


def _squared_distances(a: Tensor, b: Tensor, indices: Tensor) -> Tensor:
    """Explicit differences of each row of `a` [M, D] and the rows of `b` it names, [M, k] -> [M, k]."""
    return torch.stack([(a - b[column]).square().sum(dim=1) for column in indices.unbind(dim=1)], dim=1)


def _within(squared: Tensor, pair: _Pair, start: int, limits: Tensor, inclusive: bool) -> Tensor:
    """Which of the block's pairs are nearer than `limits` (squared radii, broadcast): bool [rows, N_real]."""
    gap = squared - limits
    inside = gap < 0
    doubtful = (gap.abs_() <= pair.error).nonzero()
    limits = limits.expand_as(squared)
    for i, j in (part.unbind(dim=1) for part in torch.split(doubtful, max(1, PAIR_VALUES // pair.real.rows.shape[1]))):
        exact = (pair.fake.rows[start + i] - pair.real.rows[j]).square().sum(dim=1)
        inside[i, j] = exact <= limits[i, j] if inclusive else exact < limits[i, j]
    return inside
