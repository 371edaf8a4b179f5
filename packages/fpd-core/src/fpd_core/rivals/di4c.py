"""Di4C (arXiv 2410.08709): a mixture of product distributions, one for each value of λ, that learns correlations.

One update, as the released program runs it (`maskgit-pytorch/Trainer/vit.py`, whose defaults are called di4c-d); r ~ U
per example is how much is visible, λ ~ U(0, 1) a further input of the student (`networks.latent_input`):

1. `mask_by` masks x_0 to x_t. The teacher, unguided, scores it once: p_T.
2. `partial_states`: the teacher reveals a little more, once for each of M values of λ. The student scores those with a
   fresh λ each, without gradient (q_m), and draws y_m ~ q_m.
3. The student scores x_t under M fresh λ, with gradient: s_m. `di4c_loss` compares.

Sums over positions run over `positions`, which has no default. The program sums over all of them, which needs a teacher
that predicts visible tokens too (MaskGIT v1 does). One trained on masked positions alone says nothing about the rest:
give where x_t is masked, which amounts to copying visible tokens in all three distributions.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fpd_core.rivals.categorical import at_tokens, kl, log_probabilities
from fpd_core.schedules import Schedule, mask_ratio

DataWeight = Literal["sigmoid", "linear", "const"]


def mask_by(tokens: Tensor, r: Tensor, uniform: Tensor, mask_id: int, schedule: Schedule = "arccos") -> Tensor:
    """x_t [B, L]: a token is masked where its uniform number [B, L] is below γ(r), r [B]; at r = 1 none is."""
    return tokens.masked_fill(uniform < mask_ratio(r, schedule)[:, None], mask_id)


def guidance_scale(r: Tensor, w: float, steps: int = 8) -> Tensor:
    """g [B] of a guided teacher in `partial_states`: 1 + w r N/(N-1), the ramp of the sampler; w is 0 in the program's
    training."""
    return 1 + w * r * steps / (steps - 1)


@dataclass(frozen=True)
class PartialStates:
    """`tokens` [B, M, L], and how many masked positions each example was to reveal, [B]."""

    tokens: Tensor
    revealed: Tensor


def partial_states(
    tokens: Tensor,
    drawn: Tensor,
    teacher_logits: Tensor,
    gumbel: Tensor,
    r: Tensor,
    *,
    delta: float,
    mask_id: int,
    noise: float = 4.5,
    steps: int = 8,
    schedule: Schedule = "arccos",
) -> PartialStates:
    """The teacher's step from r to r + δ: the surest of its draws are revealed, once for each λ.

    The count is floor(L (1 - γ(r + δ)) - visible), against the actual number of visible tokens; the ranking is
    log p + noise (1 - r N/(N-1)) Gumbel for N = `steps` of the sampler it imitates. Ties at the threshold all go.

    Args:
        tokens: x_t [B, L].
        drawn: [B, M, L] tokens drawn from the teacher.
        teacher_logits: [B, L, K] at x_t.
        gumbel: [B, M, L] standard Gumbel numbers.
        r, delta: [B], and δ.
    """
    is_masked = tokens == mask_id
    hidden = is_masked.sum(1)
    length = tokens.shape[1]
    wanted = length * (1 - mask_ratio((r + delta).clamp_max(1), schedule)) - (length - hidden)
    count = torch.minimum(wanted.floor().clamp_min(0), hidden).long()
    log_p = log_probabilities(teacher_logits)[:, None].expand(-1, drawn.shape[1], -1, -1)
    score = at_tokens(log_p, drawn) + noise * (1 - r * steps / (steps - 1))[:, None, None] * gumbel
    ordered = score.masked_fill(~is_masked[:, None], -torch.inf).sort(dim=2, descending=True).values
    last = (count - 1).clamp_min(0)[:, None, None].expand(-1, drawn.shape[1], 1)
    is_revealed = (score >= ordered.gather(2, last)) & is_masked[:, None] & (count > 0)[:, None, None]
    return PartialStates(torch.where(is_revealed, drawn, tokens[:, None]), count)


def data_weight(r: Tensor, kind: DataWeight = "sigmoid", scale: float = 0.1) -> Tensor:
    """a(r) [B] of the correlated data term: `scale` times sigmoid(20 (½ - r)), 1 - r, or 1."""
    shapes = {"sigmoid": torch.sigmoid(20 * (0.5 - r)), "linear": 1 - r, "const": torch.ones_like(r)}
    return scale * shapes[kind]


def log_mean_exp(values: Tensor, dim: int) -> Tensor:
    """log of the mean of exp over `dim`, which goes."""
    return values.logsumexp(dim) - math.log(values.shape[dim])


@dataclass(frozen=True)
class Di4cLoss:
    """`loss`: mean over the batch of the three weighted terms, with grad; all others are [B].

    `data` and `consistency` come apart into a correlated part (joint against product of marginals) and an independent
    one (an exact KL in place of the marginals).
    """

    loss: Tensor
    data: Tensor
    data_correlated: Tensor
    data_independent: Tensor
    distillation: Tensor
    consistency: Tensor
    consistency_correlated: Tensor
    consistency_independent: Tensor


def di4c_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    partial_logits: Tensor,
    partial_draws: Tensor,
    clean_tokens: Tensor,
    r: Tensor,
    *,
    positions: Tensor,
    data_weights: Tensor | None,
    delta: float = 0.05,
    control_variate: bool = True,
) -> Di4cLoss:
    """Data, distillation and consistency of one update.

    data: a(r) [-(J(x_0) - Σ_d s̄_d(x_0))] + Σ_d KL(p_T || s̄_d)
    distillation, where r >= 1 - δ: Σ_d mean_m KL(p_T || s_m,d) / δ
    consistency, elsewhere: -mean_m [J(y_m) - Σ_d s̄_d(y_m)] + Σ_d KL(q̄ || s̄)

    with s̄ = log mean_m exp s_m per position and code, J(x) = log mean_m exp Σ_d s_m,d(x_d), q̄ = mean_m q_m. With one λ
    both brackets are zero.

    Args:
        student_logits: [B, M, L, K] at x_t, with grad.
        teacher_logits: [B, L, K] at x_t.
        partial_logits: [B, M, L, K] of the student at its partial states.
        partial_draws: y [B, M, L], drawn from them.
        clean_tokens: x_0 [B, L].
        positions: [B, L], where Σ_d runs: all of them in the program; see the module.
        data_weights: a(r) [B] (`data_weight`); zeros leave the correlated part out, as the program's `alpha_const 0`.
            None leaves the whole data term out, so that x_0 is never a label: plain di4c as we read it. That is a
            guess, since the program has no switch for it.
        control_variate: False gives -J alone, without the independent parts.
    """
    s, log_t = log_probabilities(student_logits), log_probabilities(teacher_logits.detach())
    q = log_probabilities(partial_logits.detach())
    mixture, log_q = log_mean_exp(s, 1), log_mean_exp(q, 1)

    def over(values: Tensor) -> Tensor:
        """Σ_d: [B, L] -> [B]."""
        return torch.where(positions, values, 0).sum(1)

    def correlated(tokens: Tensor) -> Tensor:
        """-J of `tokens` [B, N, L], with the control variate -(J - Σ_d s̄), [B]: the mean over N."""
        excess = _joint(s, tokens, positions)
        if control_variate:
            marginal = mixture.gather(2, tokens.transpose(1, 2))
            excess = excess - torch.where(positions[..., None], marginal, 0).sum(1)
        return -excess.mean(1)

    nothing = torch.zeros_like(r, dtype=s.dtype)
    data_c = correlated(clean_tokens[:, None])
    data_i = over(kl(log_t, mixture)) if control_variate else nothing
    data = nothing if data_weights is None else data_weights * data_c + data_i
    consistency_c = correlated(partial_draws)
    consistency_i = over(kl(log_q, mixture)) if control_variate else nothing
    is_late = r >= 1 - delta
    distillation = torch.where(is_late, over(kl(log_t[:, None], s).mean(1)) / delta, 0)
    consistency = torch.where(is_late, 0, consistency_c + consistency_i)
    loss = (data + distillation + consistency).mean()
    return Di4cLoss(loss, data, data_c, data_i, distillation, consistency, consistency_c, consistency_i)


def _joint(s: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """J of `tokens` [B, N, L] under log-probabilities [B, M, L, K] of the mixture's parts: [B, N]."""
    index = tokens.transpose(1, 2)[:, None].expand(-1, s.shape[1], -1, -1)
    each = torch.where(positions[:, None, :, None], s.gather(3, index), 0)  # [B, M, L, N]
    return log_mean_exp(each.sum(2), 1)
