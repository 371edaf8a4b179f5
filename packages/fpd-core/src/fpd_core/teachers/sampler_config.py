"""How a family is sampled in many steps: guidance, temperatures, plan. The loop is `fpd_core.sampling`."""

import math
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.config import Amount, Config, Flag, Guidance, Line, Number, Temperature, Whole
from fpd_core.schedules import RevealRule, Schedule

Sampler = Literal["confidence", "halton"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


class MultiplierRamp(Config):
    """Halton-MaskGIT v2's softmax temperature, which multiplies: more than 1 sharpens.

    A linear ramp of m is no linear ramp of the divisor 1 / m, hence the section of its own.
    """

    start: Temperature = Field(1.0, description="At the first step.")
    end: Temperature = Field(1.0, description="At the last of several steps.")
    power: Number = Field(1.0, ge=0, le=10, description="Exponent of the ramp's value.")
    halved_steps: Whole = Field(0, ge=0, le=2**16, description="First steps whose multiplier is halved, thus hotter.")

    def at(self, step: int, steps: int) -> float:
        """m at step 0 <= step < steps."""
        share = step / (steps - 1) if steps > 1 else 0.0
        value: float = (self.start + (self.end - self.start) * share) ** self.power
        return value / 2 if step < self.halved_steps else value


class SamplerConfig(Config):
    """How a family is sampled in many steps; each family has defaults of its own.

    Progress runs from 0 (all masked) to 1; guidance and softmax temperature may move with it.
    """

    guidance_scale: Guidance = Field(2.0, description="g of u + g (c - u), at the last step; 1 is no guidance.")
    guidance_start: Guidance | None = Field(None, description="g at progress 0; by default the scale is constant.")
    guidance_ramp: Literal["linear", "cosine"] = Field("linear", description="How g moves from start to end.")
    softmax_temperature: Temperature = Field(1.0, description="Divides the guided logits, at the last step.")
    softmax_temperature_start: Temperature | None = Field(None, description="At progress 0; by default constant.")
    confidence: Literal["probability", "logit"] = Field("probability", description="What ranks the drawn tokens.")
    confidence_temperature: Number = Field(
        4.5, ge=0, le=1e3, description="Gumbel noise on the ranking; falls linearly to 0."
    )
    annealed_draws: Flag = Field(
        False, description="Draw tokens at the temperature of the ranking noise, greedily at its end; else at 1."
    )
    first_progress: Literal["zero", "one_step"] = Field(
        "zero", description="Progress at step k of N: k/(N-1), or (k+1)/N as in MaskGen."
    )
    schedule: Schedule = "arccos"
    rule: RevealRule = "corrected"
    shift: Flag | None = Field(
        None,
        description="Halton order: each image begins elsewhere on the same circle, at random; null: all at its start.",
    )
    multiplier: MultiplierRamp | None = Field(
        None, description="Multiplies the guided logits, besides the temperature."
    )
    top_k: Amount | None = Field(None, description="Draws from the likeliest codes only; null: from all.")
    timestep: Literal["step_index"] | None = Field(
        None, description="What a network that reads a timestep is told: N-1 to 0, or (null) the share still masked."
    )
    negative_prompt: Line | None = Field(None, description="What u of the guidance reads; null: the family's own.")

    def tempered(self, logits: Tensor, step: int, steps: int) -> Tensor:
        """Guided logits [B, L, K] as tokens are drawn from them at step 0 <= step < steps."""
        progress = torch.tensor(self.progress(step, steps), dtype=torch.float64)
        logits = logits / self.softmax_temperature_at(progress).item()
        if self.multiplier is not None:
            logits = logits * self.multiplier.at(step, steps)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[..., -1:], -torch.inf)
        return logits

    def progress(self, step: int, steps: int) -> float:
        """Progress at step 0 <= step < steps."""
        if self.first_progress == "one_step":
            return (step + 1) / steps
        return step / (steps - 1) if steps > 1 else 1.0

    def ranking_noise(self, step: int, steps: int) -> float:
        """Gumbel noise on the ranking at step 0 <= step < steps."""
        return self.confidence_temperature * (1 - self.progress(step, steps))

    def draw_temperature(self, step: int, steps: int) -> float:
        """What divides the logits of `tempered` where tokens are drawn; at 0 the likeliest ones are taken."""
        return self.ranking_noise(step, steps) if self.annealed_draws else 1.0

    def guidance_at(self, progress: Tensor) -> Tensor:
        """g at progress in [0, 1], any shape."""
        start = self.guidance_scale if self.guidance_start is None else self.guidance_start
        share = progress if self.guidance_ramp == "linear" else (1 - torch.cos(math.pi * progress)) / 2
        return start + (self.guidance_scale - start) * share

    def softmax_temperature_at(self, progress: Tensor) -> Tensor:
        """Divisor of the guided logits at progress in [0, 1], any shape."""
        end = self.softmax_temperature
        start = end if self.softmax_temperature_start is None else self.softmax_temperature_start
        return start + (end - start) * progress
