"""Mask schedules γ: what share is masked in training, how many tokens a sampler reveals per step.

`mask_ratio` maps a uniform u to the training ratio; `reveal_plan` discretises the same curve for N sampling steps.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["arccos", "cosine", "linear", "square"]
RevealRule = Literal["corrected", "v1", "floor", "truncated"]

# u in [0, 1] -> share masked, increasing for linear and square, decreasing for the other two.
_RATIO: dict[Schedule, Callable[[Tensor], Tensor]] = {
    "arccos": lambda u: torch.arccos(u) * (2 / math.pi),
    "cosine": lambda u: torch.cos(u * (math.pi / 2)),
    "linear": lambda u: u,
    "square": lambda u: u * u,
}


def mask_ratio(u: Tensor, schedule: Schedule) -> Tensor:
    """Share of masked tokens for uniform u (MaskGIT's training law).

    Args:
        u: any shape, in [0, 1].

    Returns:
        Same shape, in [0, 1]. For arccos its density over ratios m is (π/2) sin(πm/2): high ratios dominate.
    """
    return _RATIO[schedule](u)


def is_decreasing(schedule: Schedule) -> bool:
    """Whether `mask_ratio` falls from 1 to 0 while u runs from 0 to 1, instead of rising."""
    return schedule in ("arccos", "cosine")


def progress_at(ratio: Tensor, schedule: Schedule) -> Tensor:
    """How far a sampler is when a share `ratio` in [0, 1] is masked: 0 where all is masked, 1 where nothing is."""
    inverse: dict[Schedule, Callable[[Tensor], Tensor]] = {
        "arccos": lambda m: torch.cos(m * (math.pi / 2)),
        "cosine": lambda m: torch.arccos(m) * (2 / math.pi),
        "linear": lambda m: 1 - m,
        "square": lambda m: 1 - m.sqrt(),
    }
    return inverse[schedule](ratio)


def _masked_share(progress: float, schedule: Schedule, dtype: torch.dtype) -> Tensor:
    """Share still masked when a sampler has done `progress` of its steps: 1 at 0, 0 at 1."""
    u = progress if is_decreasing(schedule) else 1 - progress
    return mask_ratio(torch.tensor(u, dtype=dtype), schedule)


def reveal_plan(length: int, steps: int, schedule: Schedule = "arccos", rule: RevealRule = "corrected") -> list[int]:
    """Number of tokens fixed at each of `steps` sampling steps; sums to `length`.

    Args:
        length: L, tokens in a sequence.
        steps: N, at most `length`.
        rule: "corrected" differences the masked count round(L γ(k/N)), k = 0..N (di4c). "v1" weighs N points
            including the one where γ is zero (MaskGIT v1), which wastes the first step on a single token: its
            2-step plan is (1, L - 1). These two reveal at least one token per step. "floor" keeps
            floor(L γ((k+1)/N)) masked, but at least one until the last step (MaskGen, Meissonic, aMUSEd).
            "truncated" has floor(L (1 - γ((k+1)/N))), but at least k + 1, revealed after step k (Halton-MaskGIT v2).
            The two that truncate do so in float32 as the official samplers: float64 counts another token where
            the exact number is whole, such as L cos(π/3). With one step all reveal everything.

    Raises:
        ValueError: `steps` outside [1, length].
    """
    if not 1 <= steps <= length:
        raise ValueError(f"steps must be between 1 and the {length} tokens of a sequence, got {steps}")
    if steps == 1:
        return [length]
    if rule == "floor":
        return _floor_plan(length, steps, schedule)
    if rule == "truncated":
        shares = [1 - _masked_share(k / steps, schedule, torch.float32) for k in range(steps + 1)]
        revealed = [max(k, int(length * share)) for k, share in enumerate(shares)]
        return [after - before for before, after in pairwise(revealed)]
    if rule == "corrected":
        masked = [round(length * float(_masked_share(k / steps, schedule, torch.float64))) for k in range(steps + 1)]
        plan = [before - after for before, after in pairwise(masked)]
    else:
        weights = [_v1_weight(1 - k / (steps - 1), schedule) for k in range(steps)]
        plan = [round(length * w / sum(weights)) for w in weights]
    plan = [max(1, count) for count in plan]
    plan[-1] += length - sum(plan)
    while plan[-1] < 1:  # rounding up to one each took more than there was
        plan[plan.index(max(plan))] -= 1
        plan[-1] += 1
    return plan


def _floor_plan(length: int, steps: int, schedule: Schedule) -> list[int]:
    plan, masked = [], length
    for k in range(steps - 1):
        wanted = int(length * _masked_share((k + 1) / steps, schedule, torch.float32))
        left = max(1, min(masked - 1, wanted))
        plan.append(masked - left)
        masked = left
    return [*plan, masked]


def _v1_weight(r: float, schedule: Schedule) -> float:
    """MaskGIT v1's weight of a step; it names the curves by how they treat r, which runs from 1 to 0."""
    forms: dict[Schedule, float] = {
        "arccos": math.acos(r) * 2 / math.pi,
        "cosine": math.cos(r * math.pi / 2),
        "linear": 1 - r,
        "square": 1 - r * r,
    }
    return forms[schedule]
