"""Distances in units of what two sets of real images are apart: comparable over encoders, and 1 for real images."""

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor


def split_in_halves(total: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two disjoint random sets of `count` indices below `total`, a function of the arguments alone.

    Raises:
        ValueError: there are not so many.
    """
    if 2 * count > total:
        raise ValueError(f"two halves of {count} need {2 * count} real images, there are {total}")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:count], order[count : 2 * count]


def in_units(distance: float, between_real: Sequence[float]) -> float:
    """`distance` divided by the mean of what splits of the real images are apart.

    Equal numbers of images on all sides cancel the bias that a number of images gives a distance.

    Raises:
        ValueError: the real images are not apart: the space cannot tell anything.
    """
    unit = fmean(between_real)
    if not unit > 0:
        raise ValueError(f"two halves of the real images are {unit:g} apart in this space; it cannot be a unit")
    return distance / unit
