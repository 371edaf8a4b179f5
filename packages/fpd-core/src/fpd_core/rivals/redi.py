"""ReDi, rectified discrete flow (arXiv 2507.15897): cross-entropy on pairs that the previous model has drawn.

Stages, as the released program runs them (`image/Trainer/vit.py`); a source is part masks, part random codes:

* ReDi0: real tokens as targets, corrupted by fresh `source_tokens`.
* Pairs k -> k+1: `draw_pairs` samples x¹ from x⁰ with the model of stage k; stage k+1 trains on them.
* distill: the network sees x⁰ itself and learns x¹ in one step.

In every stage the input is `blend`, the loss `pair_loss`. Its `positions` have no default: the program counts all of
them, visible ones too, which the bundled teacher has never been asked about; ReDi0 must teach that first, or the sums
stay where the source is shown.

Not reproduced: with accumulation the program clears the gradients before the last micro-batch, so that this one alone
counts, at half weight. `pair_loss` is a mean, so equal micro-batches average to the batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fpd_core.rivals.categorical import at_tokens
from fpd_core.schedules import mask_ratio

Stage = Literal["linear", "arccos", "distill"]
LAST = -1e30  # below every score of an open position


def source_tokens(codes: Tensor, uniform: Tensor, mask_id: int, mask_share: float = 0.3) -> Tensor:
    """x⁰ [B, L]: a mask where the uniform number is below `mask_share`, else the random code. A share of 1 would leave
    nothing to rectify."""
    return codes.masked_fill(uniform < mask_share, mask_id)


def source_share(u: Tensor, stage: Stage) -> Tensor:
    """Share of positions that show the source, for uniform u [B]: 1 - u in all stages but the last, where it is 1."""
    shares = {"linear": 1 - u, "arccos": mask_ratio(u, "arccos"), "distill": torch.ones_like(u)}
    return shares[stage]


def blend(source: Tensor, target: Tensor, share: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """(what the network sees [B, L], where that is the source [B, L]): the source where the uniform number [B, L] is
    below the share [B], else the target. Which is which carries no flag."""
    is_source = places < share[:, None]
    return torch.where(is_source, source, target), is_source


@dataclass(frozen=True)
class PairLoss:
    """`loss` with grad; detached, what positions give to it before they are weighed: those that show the target, and
    those that show a mask or a code of the source."""

    loss: Tensor
    visible: Tensor
    masked: Tensor
    random: Tensor


def pair_loss(
    logits: Tensor,
    seen: Tensor,
    is_source: Tensor,
    target: Tensor,
    *,
    positions: Tensor,
    mask_id: int,
    label_smoothing: float = 0.1,
    visible_weight: float = 1.0,
) -> PairLoss:
    """Cross-entropy with label smoothing, mean over the counted positions of the batch.

    Args:
        logits: [B, L, K].
        seen, is_source: [B, L], the network's input and where it is the source (`blend`).
        target: x¹ [B, L].
        positions: [B, L] that count: all of them in the program; see the module.
        label_smoothing: over the K codes. A model fitted with it draws that share uniformly, which may be why the
            program's one-step row multiplies logits by 2 (a guess).
        visible_weight: of positions that show the target.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)
    losses = F.cross_entropy(wide, target, reduction="none", label_smoothing=label_smoothing)
    share = torch.where(positions, losses, 0) / positions.sum().clamp_min(1)
    loss = torch.where(is_source, share, visible_weight * share).sum()
    is_masked = is_source & (seen == mask_id)
    parts = (share.detach()[where].sum() for where in (~is_source, is_masked, is_source & ~is_masked))
    return PairLoss(loss, *parts)


@dataclass(frozen=True)
class Drawn:
    """`tokens` [B, L], and of every step: what the network saw [B, L], the probabilities of the draws [B, L, K], and
    the positions still open after it [B, L]."""

    tokens: Tensor
    inputs: list[Tensor]
    probabilities: list[Tensor]
    is_open: list[Tensor]


@torch.no_grad()
def draw_pairs(
    guided_logits: Callable[[Tensor, float], Tensor],
    draw: Callable[[Tensor], Tensor],
    source: Tensor,
    plan: Sequence[int],
    gumbel: Tensor,
    *,
    mask_id: int,
    guidance: float,
    constant_guidance: bool = False,
    masks_first: bool = False,
    multiplier: float = 1.0,
    noise: float = 4.5,
) -> Drawn:
    """x¹ from x⁰ by confidence sampling in which every position is open at first, whatever it shows.

    With N steps, step k has progress ρ = k/(N - 1 + 1e-6), guidance scale 1 + wρ (1 + w in a single step) and ranking
    noise `noise` (1 - ρ). The mask is never drawn.

    Args:
        guided_logits: (tokens [B, L], g) -> u + g (c - u), [B, L, K], or K + 1 columns with the mask's last.
        draw: probabilities [B, L, K] -> tokens [B, L].
        source: x⁰.
        plan: positions fixed per step (`schedules.reveal_plan`; the program's default is rule "v1").
        gumbel: [N, B, L] standard Gumbel numbers.
        guidance: w = g - 1; the paper has 1 for pairs of the rounds and 8 for those of the distilled model.
        constant_guidance: 1 + w in every step.
        masks_first: fix positions that show a mask before others, which then have no order: the program adds so large
            a number that their scores are lost, and `topk` decides.
        multiplier: of the logits; 2 in the program's one-step row.
    """
    tokens, is_open = source, torch.ones_like(source, dtype=torch.bool)
    inputs: list[Tensor] = []
    probabilities: list[Tensor] = []
    states: list[Tensor] = []
    for k, count in enumerate(plan):
        progress = k / (len(plan) - 1 + 1e-6)
        scale = 1 + guidance * (1 if constant_guidance or len(plan) == 1 else progress)
        logits = guided_logits(tokens, scale) * multiplier
        logits[..., mask_id:] = -torch.inf  # nothing where there is no such column
        p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
        drawn = draw(p)
        score = at_tokens(p, drawn).log() + noise * (1 - progress) * gumbel[k]
        if masks_first:
            score = torch.where(tokens == mask_id, score, LAST)
        inputs.append(tokens)
        probabilities.append(p)
        tokens, is_open = fix_surest(score, drawn, tokens, is_open, count)
        states.append(is_open)
    return Drawn(tokens, inputs, probabilities, states)


def fix_surest(score: Tensor, drawn: Tensor, tokens: Tensor, is_open: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(tokens, open positions) after the `count` open positions of the highest score show their draw, all [B, L]."""
    score = score.masked_fill(~is_open, -torch.inf)
    chosen = score.topk(count, dim=1)
    # As in the program: ties at the threshold all show their draw, and only `count` of them are fixed.
    return torch.where(score >= chosen.values[:, -1:], drawn, tokens), is_open.scatter(1, chosen.indices, False)


def learning_rate(update: int, peak: float = 1e-4, horizon: int = 19_400) -> float:
    """The program's cosine, which rises again beyond `horizon`. Its default horizon is twice what its README trains:
    the rate then ends at half."""
    return peak * (1 + math.cos(math.pi * update / horizon)) / 2
