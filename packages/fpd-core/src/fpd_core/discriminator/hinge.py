"""The adversarial losses: hinge, mean over images and logits, sum over branches, so λ depends on no batch size."""

from collections.abc import Sequence

import torch
from torch import Tensor


def discriminator_loss(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Σ relu(1 + D(fake)) + relu(1 - D(real)), a scalar.

    Args:
        fake, real: one [N, n] of logits per branch; N may differ between the two.
    """
    pairs = zip(fake, real, strict=True)
    return torch.stack([(1 + f).relu().mean() + (1 - r).relu().mean() for f, r in pairs]).sum()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Σ -D(fake), a scalar."""
    return -torch.stack([logits.mean() for logits in fake]).sum()


def share_called_real(logits: Sequence[Tensor]) -> Tensor:
    """Share of positive logits, the mean over branches."""
    return torch.stack([(branch > 0).float().mean() for branch in logits]).mean()
