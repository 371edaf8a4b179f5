"""Kernel distance (KID; Bińkowski et al. 2018, arXiv:1801.01401): unbiased squared MMD with a cubic kernel."""

import numpy as np
import torch
from torch import Tensor

from fpd_eval.metrics.matrices import Features, matrices


def kernel_distance(
    real: Features, fake: Features, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Mean and population standard deviation over random subsets of the unbiased MMD² with k(x, y) = (x·y / D + 1)³.

    Subsets are torch-fidelity's: drawn without replacement by `RandomState(seed)`, the fake one first. That library
    computes in the features' own float32, this function in float64.

    Args:
        real: [N_real, D], any float dtype.
        fake: [N_fake, D].

    Returns:
        (mean, std). The mean may be slightly negative for equal distributions.

    Raises:
        ValueError: not finite matrices with the same D, or fewer rows than `subset_size`.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets and subset_size must be at least 1 and 2, got {subsets} and {subset_size}")
    real, fake = matrices(real, fake, min_rows=subset_size)
    random = np.random.RandomState(seed)
    distances = []
    for _ in range(subsets):
        chosen_fake = torch.from_numpy(random.choice(len(fake), subset_size, replace=False)).to(fake.device)
        chosen_real = torch.from_numpy(random.choice(len(real), subset_size, replace=False)).to(real.device)
        distances.append(_unbiased_mmd2(fake[chosen_fake], real[chosen_real]))
    return float(np.mean(distances)), float(np.std(distances))


def _unbiased_mmd2(x: Tensor, y: Tensor) -> float:
    """Of two [m, D] samples; the pairs of a row with itself are left out within a sample."""
    m = len(x)
    within = sum(float(k.sum() - k.diagonal().sum()) for k in (_cubic(x, x), _cubic(y, y)))
    return within / (m * (m - 1)) - 2 * float(_cubic(x, y).mean())


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
