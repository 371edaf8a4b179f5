"""Corrupting token maps: the student's initial sequence z_init and the re-masking M_r (eq. 1)."""

import torch
from torch import Tensor

from fpd_core.draws import integers, uniform


def masked_count(length: int, mask_ratio: Tensor) -> Tensor:
    """Tokens hidden at shares `mask_ratio`, any shape, of a sequence of `length`: round(rL), at least one."""
    # Halves round up, as round(rL) reads in the public code for the ratios in use; at least one token is masked.
    return (mask_ratio.double() * length + 0.5).floor().clamp(1, length).long()


def _random_subset(batch: int, length: int, counts: Tensor, generator: torch.Generator | None) -> Tensor:
    """Boolean [batch, length] with exactly counts[i] true entries in row i, uniformly placed."""
    noise = uniform(batch, length, generator=generator, device=counts.device)
    return noise.argsort(dim=1).argsort(dim=1) < counts[:, None]


def initial_tokens(
    batch: int,
    length: int,
    codebook_size: int,
    mask_id: int,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """z_init: exactly round(r_init L) mask tokens at random places (at least one), uniform random codes elsewhere.

    Args:
        mask_ratio: r_init in (0, 1]. The random codes are the student's only source of diversity.
        generator: on `device`.

    Returns:
        [batch, length] int64; codes lie in [0, codebook_size), never the mask id.

    Raises:
        ValueError: `mask_ratio` outside (0, 1], or `mask_id` is a code.
    """
    if not 0 < mask_ratio <= 1:
        raise ValueError(f"mask_ratio must be in (0, 1], got {mask_ratio}")
    if mask_id < codebook_size:
        raise ValueError(f"mask_id {mask_id} is one of the {codebook_size} codes")
    codes = integers(0, codebook_size, batch, length, generator=generator, device=device)
    counts = masked_count(length, torch.full((batch,), mask_ratio, dtype=torch.float64, device=codes.device))
    return codes.masked_fill(_random_subset(batch, length, counts, generator), mask_id)


def remask(
    tokens: Tensor, mask_ratio: Tensor | float, mask_id: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """M_r (eq. 1): hide exactly round(rL) tokens of each sequence (at least one), chosen uniformly.

    Eq. 1 masks each token independently; the exact count has the same expectation and less variance.

    Args:
        tokens: [B, L] int64.
        mask_ratio: r in [0, 1], one number or [B].

    Returns:
        (tokens with `mask_id` at the hidden places [B, L], the hidden places [B, L] bool).

    Raises:
        ValueError: a ratio outside [0, 1] or of another batch size.
    """
    batch, length = tokens.shape
    ratio = torch.as_tensor(mask_ratio, dtype=torch.float64, device=tokens.device)
    if ratio.ndim > 1 or (ratio.ndim == 1 and len(ratio) != batch):
        raise ValueError(f"mask_ratio has shape {tuple(ratio.shape)}, the batch holds {batch} sequences")
    if not bool(((ratio >= 0) & (ratio <= 1)).all()):
        raise ValueError(f"mask_ratio must be in [0, 1], got {ratio.tolist()}")
    is_masked = _random_subset(batch, length, masked_count(length, ratio.expand(batch)), generator)
    return tokens.masked_fill(is_masked, mask_id), is_masked
