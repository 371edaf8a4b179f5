"""Gradients through the token bottleneck (eq. 8), and the sampling that makes it one (eq. 4)."""

import math

import torch
from torch import Tensor


def sample_tokens(logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Independent categorical draws at every position (eq. 4).

    Args:
        logits: [B, L, K], any float dtype, unnormalised.
        temperature: divides the logits; must be positive.

    Returns:
        [B, L] int64 in [0, K).

    Raises:
        ValueError: `temperature` is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    probabilities = (logits.detach().float() / temperature).softmax(dim=-1)
    draws = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator)
    return draws.view(logits.shape[:2])


def soft_embedding(logits: Tensor, codebook: Tensor) -> Tensor:
    """Expected code vector under the student's distribution, Σ_k p_k E_k.

    Args:
        logits: [B, L, K], any float dtype, unnormalised.
        codebook: E [K, d], frozen.

    Returns:
        [B, L, d] in the codebook's dtype. The softmax runs in at least float32: bfloat16 cannot resolve
        probabilities over thousands of codes.

    Raises:
        ValueError: `logits` and `codebook` disagree on K.
    """
    if logits.shape[-1] != codebook.shape[0]:
        raise ValueError(f"logits score {logits.shape[-1]} codes, the codebook holds {codebook.shape[0]}")
    wide = torch.promote_types(logits.dtype, torch.float32)
    return (logits.to(wide).softmax(dim=-1) @ codebook.to(wide)).to(codebook.dtype)


def straight_through(logits: Tensor, tokens: Tensor, codebook: Tensor) -> Tensor:
    """Exact code vectors forward, soft-embedding gradient backward (eq. 8).

    Args:
        logits: [B, L, K] that `tokens` were sampled from.
        tokens: [B, L] int64 in [0, K). The mask id is not a code.
        codebook: E [K, d], frozen.

    Returns:
        [B, L, d], bitwise equal to `codebook[tokens]`.

    Raises:
        ValueError: `logits` and `codebook` disagree on K.
    """
    soft = soft_embedding(logits, codebook)
    # The bracket is exactly zero; hard + soft - soft would round.
    return codebook[tokens] + (soft - soft.detach())
