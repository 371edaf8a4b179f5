"""Gradients through the token bottleneck (eq. 8), and the sampling that makes it one (eq. 4)."""

import math

import torch
from torch import Tensor

from fpd_core.codes import ChunkedEmbedding, chunked_entropy, chunked_sample, is_whole
from fpd_core.draws import categorical


def sample_tokens(
    logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None, *, chunk: int | None = None
) -> Tensor:
    """Independent categorical draws at every position (eq. 4).

    Args:
        logits: [B, L, K], any float dtype, unnormalised.
        temperature: divides the logits; must be positive.
        chunk: codes at a time, here and below; None reads up to `codes.CHUNK` at once. A codebook of at most `chunk`
            codes is read whole. In chunks the law is the same and the draws of a generator are others.

    Returns:
        [B, L] int64 in [0, K).

    Raises:
        ValueError: `temperature` is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if not is_whole(logits.shape[-1], chunk):
        return chunked_sample(logits, temperature, generator, chunk)
    probabilities = (logits.detach().float() / temperature).softmax(dim=-1)
    return categorical(probabilities, generator)


def token_entropy(logits: Tensor, *, chunk: int | None = None) -> Tensor:
    """Mean entropy in nats of the token distributions [B, L, K]: a scalar, without gradient where it is chunked."""
    if not is_whole(logits.shape[-1], chunk):
        return chunked_entropy(logits, chunk).mean()
    entropy: Tensor = torch.distributions.Categorical(logits=logits.float()).entropy().mean()
    return entropy


def soft_embedding(logits: Tensor, codebook: Tensor, *, chunk: int | None = None) -> Tensor:
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
    if not is_whole(len(codebook), chunk):
        embedding: Tensor = ChunkedEmbedding.apply(logits, codebook, chunk)  # type: ignore[no-untyped-call]
        return embedding.to(codebook.dtype)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return (logits.to(wide).softmax(dim=-1) @ codebook.to(wide)).to(codebook.dtype)


def straight_through(logits: Tensor, tokens: Tensor, codebook: Tensor, *, chunk: int | None = None) -> Tensor:
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
    soft = soft_embedding(logits, codebook, chunk=chunk)
    # The bracket is exactly zero; hard + soft - soft would round.
    return codebook[tokens] + (soft - soft.detach())
