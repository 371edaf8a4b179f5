"""D-MMD, discrete moment matching distillation (arXiv 2603.20155): a few-step student, an auxiliary, a teacher.

No program is public; this follows the printed equations for masked diffusion. One update of a student of k steps:

1. s ~ U(0, 1), t = min(1, s + U(0, 1/k)) (`times`); real tokens diffused to z_t.
2. p = student(z_t, noise), x ~ p; z_s by `posterior`. A noise input is essential (the paper's section on it).
3. Even iterations, student: mean of `generator_losses`, gradient through p alone.
4. Odd iterations, auxiliary: mean of `auxiliary_losses`, with a fresh draw.

Not printed, so guesses wherever they are used: the weight w(s) (1 here), the schedule α (1 - t), the reduction over
positions and batch (left to the caller: losses are per position), optimizers, guidance, and which teacher, guided or
not, the auxiliary's second term follows. At k = 1 and p_S = p_A the student's gradient is Di[M]O's at β = 1.
"""

import torch
from torch import Tensor

from fpd_core.rivals.categorical import at_tokens, log_probabilities


def times(s: Tensor, gap: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """(s, t) from uniform numbers [B]: t = min(1, s + gap/k). One student per k."""
    return s, (s + gap / steps).clamp_max(1)


def posterior(
    tokens: Tensor, drawn: Tensor, alpha_s: float | Tensor, alpha_t: float | Tensor, uniform: Tensor, mask_id: int
) -> Tensor:
    """z_s [B, L] given z_t and x: a masked position stays so with probability (1 - α_s)/(1 - α_t), else becomes x.

    Args:
        tokens, drawn: z_t and x, [B, L].
        alpha_s, alpha_t: shares not masked at s < t; one number or [B, 1].
        uniform: [B, L].
    """
    stays = uniform < stay_probability(alpha_s, alpha_t)
    return torch.where((tokens == mask_id) & ~stays, drawn, tokens)


def stay_probability(alpha_s: float | Tensor, alpha_t: float | Tensor) -> float | Tensor:
    """Of a position masked at t to be masked at s."""
    return (1 - alpha_s) / (1 - alpha_t)


def generator_losses(
    student_logits: Tensor, auxiliary_logits: Tensor, teacher_logits: Tensor, is_masked: Tensor
) -> Tensor:
    """L_GEN of every position [B, L]: Σ_c p_c (log p_A - log p_T) where z_s is masked, else 0.

    Args:
        student_logits: [B, L, K] at z_t, with grad.
        auxiliary_logits, teacher_logits: [B, L, K] at z_s, constant here.
        is_masked: [B, L], where z_s is masked: elsewhere all three copy.
    """
    apart = log_probabilities(auxiliary_logits.detach()) - log_probabilities(teacher_logits.detach())
    return torch.where(is_masked, (log_probabilities(student_logits).exp() * apart).sum(-1), 0)


def auxiliary_losses(
    auxiliary_logits: Tensor,
    teacher_logits: Tensor,
    is_masked: Tensor,
    *,
    drawn: Tensor | None = None,
    student_logits: Tensor | None = None,
) -> Tensor:
    """L_AUX of every position [B, L]: -Σ_c (x + p_T)_c log p_A where z_s is masked, else 0. The teacher's part keeps
    the auxiliary near and leaves the fixed point where it is.

    Args:
        auxiliary_logits: [B, L, K] at z_s, with grad.
        drawn: x [B, L]; or
        student_logits: [B, L, K], for the soft x = p that masked diffusion allows (algorithm 1).

    Raises:
        ValueError: not exactly one of the two is given.
    """
    if (drawn is None) == (student_logits is None):
        raise ValueError("the auxiliary learns from drawn tokens or from the student's logits: give one of them")
    log_a = log_probabilities(auxiliary_logits)
    regulariser = (log_probabilities(teacher_logits.detach()).exp() * log_a).sum(-1)
    if student_logits is not None:
        own = (log_probabilities(student_logits.detach()).exp() * log_a).sum(-1)
    else:
        assert drawn is not None
        own = at_tokens(log_a, drawn)
    return torch.where(is_masked, -(own + regulariser), 0)


def lowered_outside_nucleus(logits: Tensor, top_p: float, lowering: float = 2.0) -> tuple[Tensor, Tensor]:
    """The teacher's log p [B, L, K] with codes outside the nucleus lowered by Δ (-inf would diverge), and the nucleus
    [B, L, K]: the most likely codes up to the one that reaches `top_p`. Choice: renormalised after."""
    log_p = log_probabilities(logits)
    ordered, order = log_p.exp().sort(dim=-1, descending=True)
    is_inside = ordered.cumsum(-1) - ordered < top_p
    is_inside = is_inside.scatter(-1, order, is_inside)
    return log_probabilities(log_p - lowering * ~is_inside), is_inside
