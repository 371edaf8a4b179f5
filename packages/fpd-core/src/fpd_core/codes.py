"""The softmax over a large codebook, some codes at a time: no second tensor as large as the logits [B, L, K] is kept.

Each function equals its one line in `ste.py` to float32 rounding, whatever the chunk. With m the largest score and
S = Σ_k exp(ℓ_k - m), the probabilities p_k = exp(ℓ_k - m) / S are made anew, chunk by chunk, wherever they are needed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fpd_core.draws import uniform

CHUNK = 8192  # codes at a time where nothing else is said: smaller codebooks are read whole


def is_whole(codes: int, chunk: int | None) -> bool:
    """Whether a codebook is read at once. Raises ValueError: `chunk` is not positive."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"a chunk holds at least one code, got {chunk}")
    return codes <= (chunk or CHUNK)


class ChunkedEmbedding(torch.autograd.Function):
    """Σ_k p_k E_k; backward the softmax's Jacobian, dℓ_k = p_k (E_k·v - Σ_j p_j E_j·v), into one tensor."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, codebook: Tensor, chunk: int | None) -> Tensor:
        """[B, L, K], frozen [K, d] -> [B, L, d] in at least float32."""
        top = _top(logits)
        soft = logits.new_zeros(*logits.shape[:-1], codebook.shape[1], dtype=top.dtype)
        total = torch.zeros_like(top)
        for at, weights in _weights(logits, top, chunk):
            soft += weights @ codebook[at].to(top.dtype)
            total += weights.sum(-1, keepdim=True)
        soft /= total
        ctx.chunk = chunk
        ctx.save_for_backward(logits, codebook, top, total, soft)
        return soft

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, codebook, top, total, soft = ctx.saved_tensors
        v = gradients[0]
        mean = (soft * v).sum(-1, keepdim=True)
        result = torch.empty_like(logits)
        for at, weights in _weights(logits, top, ctx.chunk):
            pull = (v @ codebook[at].to(v.dtype).T).sub_(mean)
            result[..., at] = pull.mul_(weights).div_(total)
        return result, None, None


@torch.no_grad()
def chunked_sample(
    logits: Tensor, temperature: float, generator: torch.Generator | None, chunk: int | None = None
) -> Tensor:
    """Categorical draws [B, L] by inversion: code k where the cumulative probabilities pass one uniform per position.

    Equal generators give equal draws whatever the chunk; they are not those of `torch.multinomial`, which takes K
    random numbers per position.
    """
    top = _top(logits)
    masses = [
        weights.sum(-1, keepdim=True, dtype=torch.float64) for _, weights in _weights(logits, top, chunk, temperature)
    ]
    ends = torch.cat(masses, dim=-1).cumsum(-1)
    drawn = uniform(*ends[..., :1].shape, generator=generator, device=logits.device, dtype=torch.float64)
    level = drawn * ends[..., -1:]
    chosen = _first_above(ends, level)
    tokens = torch.zeros_like(chosen)
    size = chunk or CHUNK
    for number, end in enumerate(ends.unbind(-1)):
        here = chosen[..., 0] == number
        scores = logits[here][:, number * size : (number + 1) * size]
        weights = ((scores.to(top.dtype) - top[here]) / temperature).exp_().to(torch.float64)
        start = (end - masses[number][..., 0])[here][:, None]
        tokens[here] = number * size + _first_above(weights.cumsum(-1), level[here] - start)
    return tokens[..., 0]


def chunked_entropy(logits: Tensor, chunk: int | None = None) -> Tensor:
    """Entropy in nats of every distribution, log S - Σ_k p_k (ℓ_k - m): [B, L], not differentiable."""
    logits = logits.detach()
    top = _top(logits)
    total, moment = torch.zeros_like(top), torch.zeros_like(top)
    for at, weights in _weights(logits, top, chunk):
        total += weights.sum(-1, keepdim=True)
        # A code of probability zero may have the score minus infinity.
        distance = (logits[..., at].to(top.dtype) - top).clamp_min_(torch.finfo(top.dtype).min)
        moment += weights.mul_(distance).sum(-1, keepdim=True)
    return (total.log() - moment / total)[..., 0]


def _top(logits: Tensor) -> Tensor:
    """m, the largest score of each position, [B, L, 1] in at least float32."""
    return logits.amax(-1, keepdim=True).to(torch.promote_types(logits.dtype, torch.float32))


def _weights(
    logits: Tensor, top: Tensor, chunk: int | None, temperature: float = 1.0
) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive codes and their exp((ℓ_k - m) / temperature)."""
    codes, size = logits.shape[-1], chunk or CHUNK
    for start in range(0, codes, size):
        at = slice(start, min(start + size, codes))
        yield at, ((logits[..., at].to(top.dtype) - top) / temperature).exp_()


def _first_above(cumulative: Tensor, level: Tensor) -> Tensor:
    """Index of the first entry above `level`; rounding of the level never points at one without mass."""
    last = cumulative[..., -1:]
    nothing = torch.zeros_like(last)
    return torch.searchsorted(cumulative, level.clamp(nothing, last.nextafter(nothing)), right=True)
