"""Categorical distributions over codes, and means over chosen positions: what the rivals' losses are written in."""

import torch
from torch import Tensor


def log_probabilities(logits: Tensor) -> Tensor:
    """log p over the last dimension, in at least float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension, which goes. The logarithms must be finite: a floor, never -inf."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def at_tokens(log_p: Tensor, tokens: Tensor) -> Tensor:
    """log p of `tokens` [...], from [..., K]."""
    return log_p.gather(-1, tokens[..., None])[..., 0]


def mean_at(values: Tensor, positions: Tensor) -> Tensor:
    """Mean of `values` [B, L] over the true `positions` of the whole batch; 0 where there are none."""
    return torch.where(positions, values, 0).sum() / positions.sum().clamp_min(1)
