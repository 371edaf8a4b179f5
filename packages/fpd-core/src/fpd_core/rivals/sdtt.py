"""SDTT, self-distillation through time (arXiv 2410.21035): rounds in which a student learns n teacher steps as one.

One update of a round, as the released program runs it (`src/sdtt/core/distill/multi_round_sdtt.py`):

1. `stratified_times`; `corrupt` masks each real token with probability move(t).
2. `teacher_target`: n ancestral steps of size δ; a position's target are the log-probabilities of its reveal.
3. `distil_loss`: KL(student || target), mean over the masked positions of the batch.

After a round the teacher takes the student's weights (raw, not averaged) and δ becomes nδ (`rounds`). Networks that
score the mask id as column `mask_id` and networks that score the codes alone are both accepted.

The image rows of other papers' tables are 3 rounds on MaskGIT by ReDi's authors; nothing else is known of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fpd_core.rivals.categorical import kl, mean_at

EARLIEST = 1e-5  # ε, the smallest time
FLOOR = -1e6  # the logarithm of "impossible"
Divergence = Literal["kl-bwd", "kl-fwd", "tvd", "mse"]


def stratified_times(uniform: float, batch: int) -> Tensor:
    """t [batch] float64 in [ε, 1) from one uniform number: ε + (1 - ε) ((U + b/B) mod 1)."""
    shares = (uniform + torch.arange(batch, dtype=torch.float64) / batch) % 1
    return EARLIEST + (1 - EARLIEST) * shares


def move(time: Tensor) -> Tensor:
    """Share of tokens that are masked at `time` (the log-linear noise)."""
    return (1 - 1e-3) * time


def corrupt(tokens: Tensor, time: Tensor, uniform: Tensor, mask_id: int) -> Tensor:
    """x_t [B, L]: each token masked on its own where its uniform number [B, L] is below move(t), t [B]."""
    return tokens.masked_fill(uniform < move(time)[:, None], mask_id)


def log_probabilities(logits: Tensor, tokens: Tensor, mask_id: int) -> Tensor:
    """log p of the codes, visible tokens copied: 0 at the token, `FLOOR` elsewhere.

    Args:
        logits: [B, L, K], or [B, L, K + 1] whose last column scores `mask_id`: it is lowered by `FLOOR` before the
            normalisation and stays as a column that is never drawn.
        tokens: [B, L] that the network saw.
    """
    lowered = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    lowered[..., mask_id:] += FLOOR  # nothing where there is no such column
    copied = torch.full_like(lowered, FLOOR)
    copied.scatter_(-1, tokens.clamp_max(logits.shape[-1] - 1)[..., None], 0.0)
    return torch.where((tokens == mask_id)[..., None], lowered.log_softmax(-1), copied)


@dataclass(frozen=True)
class Step:
    """One ancestral step: from times `now` to earlier times `then`, both [B]."""

    now: Tensor
    then: Tensor


def step_times(time: Tensor, step: float, count: int) -> list[Step]:
    """The teacher's `count` steps of size δ from t: t - iδ to t - (i+1)δ, at least ε.

    Choice: the released program's times are t s + (1 - t)(t - nδ) for s from 1 to 0, which for its n = 2 only makes the
    first reveal less likely and for n > 2 is wrong.
    """
    at = [(time - i * step).clamp_min(EARLIEST) for i in range(count + 1)]
    return [Step(now, then) for now, then in pairwise(at)]


def step_weights(log_p: Tensor, step: Step, mask_id: int) -> Tensor:
    """Unnormalised [B, L, K + 1] of what a masked token becomes: p (move(now) - move(then)) for the codes, and last
    move(then) for "still masked". So a token is revealed with probability 1 - move(then)/move(now)."""
    now, then = (move(t)[:, None, None].to(log_p.dtype) for t in (step.now, step.then))
    codes = log_p[..., :mask_id].exp()
    return torch.cat([codes * (now - then), then.expand_as(codes[..., :1])], dim=-1)


def after_step(log_p: Tensor, tokens: Tensor, step: Step, uniform: Tensor, mask_id: int) -> Tensor:
    """Tokens [B, L] after a step; visible ones stay. The program's analytic steps give the same weights up to a factor.

    Args:
        uniform: [B, L, K + 1] numbers of the Gumbel trick, argmax w / -log u.
    """
    drawn = (step_weights(log_p, step, mask_id) / (1e-10 - (uniform + 1e-10).log())).argmax(-1)
    drawn = drawn.masked_fill(drawn == log_p[..., :mask_id].shape[-1], mask_id)
    return torch.where(tokens == mask_id, drawn, tokens)


@dataclass(frozen=True)
class TeacherTarget:
    """`log_p` [B, L, K]: a masked position's are the teacher's in the step that revealed it, or in the last step where
    none did; 0 where x_t is visible. `states`: the tokens [B, L] after each step."""

    log_p: Tensor
    states: list[Tensor]


@torch.no_grad()
def teacher_target(
    teacher: Callable[[Tensor], Tensor], tokens: Tensor, steps: Sequence[Step], uniforms: Sequence[Tensor], mask_id: int
) -> TeacherTarget:
    """What the student is to say of x_t at once: what the teacher says of it in several steps.

    Args:
        teacher: tokens [B, L] -> logits, guided if guidance is wanted.
        tokens: x_t.
        steps: `step_times`.
        uniforms: one [B, L, K + 1] per step (`after_step`).

    Raises:
        ValueError: there is no step, or not one tensor of uniform numbers for each.
    """
    state, target = tokens, None
    states: list[Tensor] = []
    for step, uniform in zip(steps, uniforms, strict=True):
        log_p = log_probabilities(teacher(state), state, mask_id)
        is_open = (state == mask_id)[..., None]
        target = torch.where(is_open, log_p, torch.zeros_like(log_p) if target is None else target)
        state = after_step(log_p, state, step, uniform, mask_id)
        states.append(state)
    if target is None:
        raise ValueError("a target takes at least one teacher step")
    return TeacherTarget(target, states)


def distil_loss(log_student: Tensor, target: Tensor, is_masked: Tensor, divergence: Divergence = "kl-bwd") -> Tensor:
    """Mean over all masked positions of the batch of the divergence between student and target.

    Args:
        log_student: `log_probabilities` of the student at x_t.
        target: `TeacherTarget.log_p`.
        is_masked: [B, L], where x_t is masked.
        divergence: "kl-bwd", KL(student || target), is the released default, "kl-fwd" the other way round. "tvd" (sum
            of absolute differences) and "mse" compare logarithms, the mask's column too where there is one: they are
            here to compare with the program, not to be used.
    """
    apart = log_student - target
    values: Callable[[], Tensor] = {
        "kl-bwd": lambda: kl(log_student, target),
        "kl-fwd": lambda: kl(target, log_student),
        "tvd": lambda: apart.abs().sum(-1),
        "mse": lambda: apart.square().mean(-1),
    }[divergence]
    return mean_at(values(), is_masked)


@dataclass(frozen=True)
class Round:
    """A round's first update, its teacher's δ, and the steps such a teacher takes in all; its student takes n times
    fewer."""

    step: int
    dt: float
    effective_steps: int


def rounds(first_steps: int, last_steps: int, factor: int, updates: int) -> list[Round]:
    """The program's plan: δ from (1 - ε)/`first_steps`, times n = `factor` after every `updates`, until the teacher of
    the next round would take fewer than `last_steps` steps. Training stops where a further round would begin.

    With `last_steps` 1 the plan has one round too many, of δ near 2: use 2 to end at a one-step student.
    """
    plan: list[Round] = []
    dt = (1 - EARLIEST) / first_steps
    while round(1 / dt) >= last_steps:
        plan.append(Round(len(plan) * updates, dt, round(1 / dt)))
        dt *= factor
    return plan
