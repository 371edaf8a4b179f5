"""Di[M]O (arXiv 2503.15457): a one-step student from token-level divergences, with an auxiliary model of the student.

One update, as the released program runs it:

1. z from `hide(random codes, r_init)`, embedding noise on the student alone; draft x ~ softmax(z).
2. x̃ from `hide(x, mask_ratio(u, "arccos"))`.
3. Without gradient: p_T, guided with a constant g, and p_A, unguided, both at x̃.
4. `generator_loss` puts G (`surrogate`) on z: at the positions of x̃, through another input, z_init.
5. A fresh draft of the updated student, hidden by the same law, and `auxiliary_loss`.

The paper averages over masked positions and has a weight w(t); the program sums and has weight 1, as here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fpd_core.rivals.categorical import kl, log_probabilities, mean_at


def hide(tokens: Tensor, ratio: Tensor, places: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Hides round(rL) tokens of each sequence, at least one.

    Not `masking.remask`: the program rounds halves to even, on a float32 product, and cuts the places from a single
    argsort.

    Args:
        tokens: [B, L] int64.
        ratio: r [B] in [0, 1].
        places: [B, L] uniform numbers that say where.

    Returns:
        (tokens with `mask_id` at the hidden places [B, L], the hidden places [B, L] bool).
    """
    length = tokens.shape[1]
    counts = (ratio.float() * length).round().clamp(1, length)
    is_masked = places.argsort(dim=1) < counts[:, None]
    return tokens.masked_fill(is_masked, mask_id), is_masked


def draw_probabilities(logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """What a token is drawn from [..., K]: softmax of the `top_k` largest logits, of the smallest set of probability at
    least `top_p`; 0 switches either off. In training temperature 1 and no cut; in sampling T is tuned (about 7)."""
    log_p = log_probabilities(logits / temperature)
    if top_k > 0:
        log_p = log_p.masked_fill(log_p < log_p.topk(top_k).values[..., -1:], -torch.inf)
    if top_p > 0:
        ordered, order = log_p.softmax(-1).sort(dim=-1, descending=True)
        is_cut = ordered.cumsum(-1) - ordered >= top_p
        log_p = log_p.masked_fill(is_cut.scatter(-1, order, is_cut), -torch.inf)
    return log_p.softmax(-1)


def surrogate(auxiliary_logits: Tensor, teacher_logits: Tensor, is_masked: Tensor, beta: float) -> Tensor:
    """G, the gradient of the generalised Jeffreys divergence by the student's logits, without
    gradient: (1 - β)(p_A - p_T) + β p_A (log p_A - log p_T - KL(p_A || p_T)) where masked, 0 elsewhere.

    Log-probabilities are not clamped: for β > 0 a code the teacher all but excludes makes G huge.

    Args:
        auxiliary_logits, teacher_logits: [B, L, K] at the re-masked draft; temperatures already divided out. They add
            no factor 1/T.
        is_masked: [B, L].
        beta: 0 is the forward KL (the released default), 1 the reverse KL, -0.2 the paper's best.
    """
    log_a, log_t = log_probabilities(auxiliary_logits.detach()), log_probabilities(teacher_logits.detach())
    p_a, p_t = log_a.exp(), log_t.exp()
    reverse = p_a * (log_a - log_t - kl(log_a, log_t)[..., None])
    return torch.where(is_masked[..., None], (1 - beta) * (p_a - p_t) + beta * reverse, 0)


def generator_loss(student_logits: Tensor, gradient: Tensor, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """½ Σ (z - sg(z - G))² / B, over positions and codes: its gradient by z is G / B, its value ½ Σ G² / B falls to 0
    where p_A = p_T.

    Args:
        student_logits: z [B, L, K] from z_init.
        gradient: G [B, L, K].
        reduction: "mean" divides by all B L K numbers instead of B.
    """
    wide = student_logits.to(gradient.dtype)
    divisor = len(wide) if reduction == "sum" else wide.numel()
    # Written as a linear term: z - (z - G) would round G to the precision of z.
    linear = (wide * gradient).sum()
    return (gradient.square().sum() / 2 + (linear - linear.detach())) / divisor


@dataclass(frozen=True)
class AuxiliaryLoss:
    """`loss` with grad; `hard` and `soft` are its two parts before they are weighed."""

    loss: Tensor
    hard: Tensor
    soft: Tensor


def auxiliary_loss(
    logits: Tensor,
    draft: Tensor,
    is_masked: Tensor,
    *,
    teacher_smoothing: float,
    student_logits: Tensor | None = None,
    soft_weight: float = 0.0,
    soft_temperature: float = 1.0,
) -> AuxiliaryLoss:
    """Cross-entropy of the auxiliary on the student's draft, mean over the masked positions of the whole batch.

    Args:
        logits: [B, L, K] of the auxiliary at the re-masked draft.
        draft: [B, L] tokens of the updated student.
        teacher_smoothing: the label smoothing the teacher was trained with, over all K codes: 0.1 for MaskGIT. It has
            no default: with another one p_A never equals p_T, and the student is pushed even at the optimum.
        student_logits: [B, L, K] of the draft, for the optional soft target.
        soft_weight: α of (1 - α) hard + α soft; soft is T² KL(student || auxiliary), a mean over codes too, as coded.
    """
    losses = F.cross_entropy(
        logits.transpose(1, 2).to(torch.promote_types(logits.dtype, torch.float32)),
        draft,
        reduction="none",
        label_smoothing=teacher_smoothing,
    )
    hard, soft = mean_at(losses, is_masked), torch.zeros_like(losses[0, 0])
    if student_logits is not None and soft_weight > 0:
        log_s = log_probabilities(student_logits.detach() / soft_temperature)
        divergence = kl(log_s, log_probabilities(logits / soft_temperature)) / logits.shape[-1]
        soft = soft_temperature**2 * mean_at(divergence, is_masked)
    return AuxiliaryLoss((1 - soft_weight) * hard + soft_weight * soft, hard, soft)
