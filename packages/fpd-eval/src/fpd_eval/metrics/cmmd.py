"""CMMD (Jayasumana et al. 2024, arXiv:2401.09603): squared MMD of normalised features with a Gaussian kernel."""

import torch
from torch import Tensor

from fpd_eval.metrics.matrices import Features, matrices

SIGMA, SCALE = 10.0, 1000.0
ROWS = 2000  # of a block of the kernel matrix


def cmmd(real: Features, fake: Features, *, sigma: float = SIGMA, scale: float = SCALE) -> float:
    """`scale` times the biased MMD² with k(x, y) = exp(-|x - y|² / (2 sigma²)) of rows of length 1.

    The official program takes embeddings of CLIP ViT-L/14 at 336 pixels, which it normalises; normalising twice
    changes nothing. The estimator keeps the pairs of a row with itself, so equal distributions score above 0.

    Args:
        real: [N_real, D], any float dtype; computed in float64.
        fake: [N_fake, D].

    Raises:
        ValueError: not finite matrices with the same D, or a row of zeros.
    """
    real, fake = (_unit(rows) for rows in matrices(real, fake))
    within = _mean_kernel(real, real, sigma) + _mean_kernel(fake, fake, sigma)
    return scale * (within - 2 * _mean_kernel(real, fake, sigma))


def _unit(rows: Tensor) -> Tensor:
    lengths: Tensor = rows.norm(dim=1, keepdim=True)
    if not bool(lengths.all()):
        raise ValueError("a feature vector is all zeros; its direction is not defined")
    return rows / lengths


def _mean_kernel(x: Tensor, y: Tensor, sigma: float) -> float:
    """Over all pairs, in blocks: |x - y|² = 2 - 2 x·y for rows of length 1."""
    total = sum(float(torch.exp((part @ y.T - 1) / sigma**2).sum()) for part in x.split(ROWS))
    return total / (len(x) * len(y))
