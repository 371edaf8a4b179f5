"""How far the student is from its fixed point (eq. 3), as numbers that fall to zero; the drift's own value does not.

The energy distance of two laws P and Q is 2 E|X-Y'| - E|X-X'| - E|Y-Y'| for independent X, X' ~ P and Y, Y' ~ Q. It is
the squared distance of P and Q in the space of the kernel -|x-y|: zero for P = Q, positive for every other pair of laws
with finite means (Székely and Rizzo 2013, Energy statistics, section 3).
"""

from dataclasses import dataclass

from torch import Tensor

SMALLEST_SPREAD = 1e-12


@dataclass(frozen=True)
class Energy:
    """Of every cell, [F] float64: the unbiased energy distance in units of the features, and the mean |X-Y'|."""

    cells: Tensor
    across: Tensor

    @property
    def coefficient(self) -> float:
        """Energy distance of all cells over 2 E|X-Y'| of all: Székely and Rizzo's coefficient, in [0, 1] for the laws
        themselves. It has no units, so that spaces can be compared; a cell counts as much as it varies."""
        return float(self.cells.sum() / (2 * self.across.sum()).clamp_min(SMALLEST_SPREAD))


def energy_of_pairs(x: Tensor, y: Tensor) -> Energy:
    """Energy distance of the laws of X and of Y = T(X), from samples that come in pairs.

    Y_i depends on X_i, but pairs are independent of each other. So for i ≠ j, and only then, |X_i - Y_j| has the mean
    E|X-Y'|, as |X_i - X_j| and |Y_i - Y_j| have theirs: means over i ≠ j are unbiased whatever T does within a pair,
    and at the fixed point, where X and Y have one law, all three are equal and the distance is zero in the mean. It may
    then come out slightly negative. Keeping i = j would subtract 2 (E|X-Y'| - E|X-T(X)|) / B there, the more the
    less T changes.

    Args:
        x, y: [B, F, D], B independent pairs (conditions drawn anew for each), B at least 2. Computed in float64.

    Raises:
        ValueError: shapes differ or are not [B, F, D], or there is one pair.
    """
    if x.ndim != 3 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"x {tuple(x.shape)} and y {tuple(y.shape)} must be one shape [B, F, D] with B at least 2")
    x, y = _centred(x, y)
    across = _mean_of_others(_distances(x, y))
    return Energy(2 * across - _within(x) - _within(y), across)


def energy_between(x: Tensor, y: Tensor) -> Energy:
    """Energy distance of the laws of two independent sets, unbiased.

    Args:
        x, y: [N, F, D] and [M, F, D], N and M at least 2. Computed in float64.

    Raises:
        ValueError: F or D differ, or a set has one sample.
    """
    if x.ndim != 3 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        raise ValueError(f"x {tuple(x.shape)} and y {tuple(y.shape)} must be [N, F, D] and [M, F, D] with N, M > 1")
    x, y = _centred(x, y)
    across = _distances(x, y).mean((1, 2))
    return Energy(2 * across - _within(x) - _within(y), across)


def recall(reference: Tensor, samples: Tensor, k: int = 3) -> float:
    """Share of the reference that lies in the samples' manifold: no farther from one of them than its k-th neighbour
    (Kynkäänniemi et al. 2019, arXiv:1904.06991). It rises with the number of samples: compare within one run.

    Args:
        reference, samples: [N, F, D] and [M, F, D]; a point is all cells together.

    Raises:
        ValueError: a sample has no k-th other one.
    """
    if not 1 <= k < len(samples):
        raise ValueError(f"recall with k = {k} needs more than {k} samples, found {len(samples)}")
    points, others = _centred(samples.flatten(1)[:, None], reference.flatten(1)[:, None])
    radius = _distances(points, points)[0].kthvalue(k + 1, dim=1).values  # the nearest is the sample itself
    return float((_distances(others, points)[0] <= radius).any(dim=1).double().mean())


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Float64, moved together: products of offsets would cost digits."""
    x, y = x.detach().double(), y.detach().double()
    middle = x.mean(0)
    return x - middle, y - middle


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """[N, F, D], [M, F, D] -> [F, N, M]."""
    x, y = x.transpose(0, 1), y.transpose(0, 1)
    squared = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None] - 2 * (x @ y.mT)
    return squared.clamp_min_(0).sqrt_()


def _within(x: Tensor) -> Tensor:
    return _mean_of_others(_distances(x, x))


def _mean_of_others(distances: Tensor) -> Tensor:
    """Mean over i ≠ j of [F, B, B]."""
    count = distances.shape[1]
    return (distances.sum((1, 2)) - distances.diagonal(0, 1, 2).sum(1)) / (count * (count - 1))
