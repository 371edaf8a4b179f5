"""Multi-step sampling of a teacher: confidence (MaskGIT) and Halton order. One-step sampling is `generator.py`."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.schedules import reveal_plan
from fpd_core.ste import sample_tokens
from fpd_core.teachers.sampler_config import Sampler, SamplerConfig
from fpd_core.teachers.teacher import Teacher

__all__ = ["Sampler", "draw", "halton_order", "halton_turns", "network_evaluations", "reveal", "sample"]


def network_evaluations(steps: int, config: SamplerConfig) -> int:
    """Forward passes per image: two branches per step, one where the scale is 1."""
    scales = [
        float(config.guidance_at(torch.tensor(config.progress(step, steps), dtype=torch.float64)))
        for step in range(steps)
    ]
    return sum(1 if scale == 1 else 2 for scale in scales)


@torch.no_grad()
def sample(
    teacher: Teacher,
    condition: Condition,
    steps: int,
    sampler: Sampler | None = None,
    *,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Tensor:
    """Tokens of a teacher after `steps` steps from an all-masked sequence.

    Args:
        condition: B conditions on the teacher's device.
        steps: N in [1, L].
        sampler: "confidence" fixes the positions the model is surest of; "halton" a low-discrepancy order. None is
            the family's own.
        options: fields of `SamplerConfig` that replace the family's defaults.

    Returns:
        [B, L] int64 in [0, K).

    Raises:
        ValueError: unknown sampler or option, or steps out of range.
    """
    sampler = sampler or teacher.default_sampler
    config = teacher.sampler_options(sampler, options)
    batch, length = len(condition), teacher.seq_len
    plan = reveal_plan(length, steps, config.schedule, config.rule)
    turns = None
    if sampler == "halton":
        turns = halton_turns(batch, length, shift=bool(config.shift), generator=generator, device=teacher.device)
    null = teacher.null_condition(condition)
    if config.negative_prompt is not None:
        null = teacher.condition([config.negative_prompt]).repeat_interleave(batch)
    tokens = torch.full((batch, length), teacher.mask_id, device=teacher.device)
    for step, count in enumerate(plan):
        progress = torch.tensor(config.progress(step, steps), dtype=torch.float64)
        read, unread = (
            [teacher.at_timestep(each, steps - 1 - step) for each in (condition, null)]
            if config.timestep == "step_index"
            else (condition, null)
        )
        logits = teacher.guided_logits(tokens, read, float(config.guidance_at(progress)), unread)
        logits = config.tempered(logits, step, steps)
        drawn = draw(logits, config.draw_temperature(step, steps), generator)
        noise = config.ranking_noise(step, steps)
        tokens = reveal(
            tokens, drawn, logits, count, config, noise, mask_id=teacher.mask_id, turns=turns, generator=generator
        )
    return tokens


def reveal(
    tokens: Tensor,
    drawn: Tensor,
    logits: Tensor,
    count: int,
    config: SamplerConfig,
    noise: float,
    *,
    mask_id: int,
    turns: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tokens [B, L] after a step that fixes `count` of the masked ones as `drawn` [B, L] from `logits` [B, L, K].

    Args:
        noise: Gumbel noise on the ranking.
        turns: `halton_turns`; None fixes what the network is surest of.
    """
    score = -turns.float() if turns is not None else _confidence(logits, drawn, config, noise, generator)
    chosen = score.masked_fill(tokens != mask_id, -torch.inf).topk(count, dim=1).indices
    return tokens.scatter(1, chosen, drawn.gather(1, chosen))


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Tokens [B, L] at a temperature; at 0 the most likely ones."""
    return sample_tokens(logits, temperature, generator) if temperature > 0 else logits.argmax(dim=-1)


def _confidence(
    logits: Tensor, drawn: Tensor, config: SamplerConfig, noise: float, generator: torch.Generator | None
) -> Tensor:
    """Score of the drawn code plus `noise` times Gumbel noise [B, L]."""
    scores = logits.log_softmax(-1) if config.confidence == "probability" else logits
    drawn_scores = scores.gather(-1, drawn[..., None])[..., 0]
    uniform = torch.rand(drawn_scores.shape, generator=generator, device=logits.device).clamp_min(1e-20)
    return drawn_scores - noise * (-uniform.log()).clamp_min(1e-20).log()


def halton_order(side: int) -> list[int]:
    """Cells of a side x side grid (row-major indices) in the order of the 2-D Halton points of bases 2 and 3."""
    order: list[int] = []
    seen: set[int] = set()
    index = 0
    while len(order) < side * side:
        index += 1
        cell = int(_radical_inverse(index, 2) * side) * side + int(_radical_inverse(index, 3) * side)
        if cell not in seen:
            seen.add(cell)
            order.append(cell)
    return order


def _radical_inverse(index: int, base: int) -> float:
    value, weight = 0.0, 1.0
    while index:
        weight /= base
        value += weight * (index % base)
        index //= base
    return value


_cached_order = lru_cache(maxsize=4)(halton_order)


def halton_turns(
    batch: int, length: int, *, shift: bool, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Turn of each position [B, L]; with `shift` each image begins elsewhere on the circle.

    Raises:
        ValueError: L is no square.
    """
    shifts = _random_shifts(batch, length, generator, device) if shift else 0
    return ((_halton_rank(length, device) + shifts) % length).expand(batch, length)


def _random_shifts(batch: int, length: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """[B, 1]; with shift s the k-th cell fixed is cell k - s of the order, counted on its circle."""
    return torch.randint(length, (batch, 1), generator=generator, device=device)


def _halton_rank(length: int, device: torch.device) -> Tensor:
    """Turn of each position [L]."""
    side = round(length**0.5)
    if side * side != length:
        raise ValueError(f"the Halton sampler needs a square token grid, {length} tokens are none")
    return torch.tensor(_cached_order(side), device=device).argsort()
