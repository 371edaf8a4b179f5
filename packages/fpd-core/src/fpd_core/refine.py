"""One guided teacher step T_φ^r: re-mask a draft and let the teacher refill it (eq. 5).

A student whose drafts this leaves unchanged in distribution is at the fixed point of eq. 3.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Config, MaskShare, Number
from fpd_core.masking import remask
from fpd_core.schedules import Schedule, mask_ratio
from fpd_core.ste import sample_tokens
from fpd_core.teachers.teacher import Teacher

_Share = Annotated[Number, Field(ge=0, le=1)]


class RemaskConfig(Config):
    """π, the law of the share r that the teacher refills."""

    schedule: Schedule = Field("arccos", description="γ(u) of a uniform u; `linear` is the uniform law.")
    clamp: tuple[_Share, MaskShare] = Field((0.05, 0.95), description="r is clamped to this range.")

    @model_validator(mode="after")
    def _ordered(self) -> "RemaskConfig":
        low, high = self.clamp
        if low > high:
            raise ValueError(f"clamp must be two ordered numbers, got {self.clamp}")
        return self

    def draw(self, batch: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """[batch] ratios."""
        return mask_ratio(torch.rand(batch, generator=generator, device=device), self.schedule).clamp(*self.clamp)


@dataclass(frozen=True)
class Refined:
    """`tokens` [B, L] with every hidden position refilled; `is_masked` [B, L], which those were."""

    tokens: Tensor
    is_masked: Tensor


@torch.no_grad()
def refine(
    teacher: Teacher,
    draft: Tensor,
    condition: Condition,
    ratio: Tensor | float,
    *,
    guidance_scale: float | Tensor,
    temperature: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> Refined:
    """T_φ^r (eq. 5): hide round(rL) draft tokens, refill all of them from one guided teacher forward.

    Args:
        draft: [B, L] codes.
        ratio: r, one number or [B].
        guidance_scale, temperature: g, and what divides the guided logits; one number or [B]
            (`Teacher.refinement` gives a family's own).

    Returns:
        Tokens equal to the draft wherever it stayed visible. Nothing is masked again: the target must decode.
    """
    visible, is_masked = remask(draft, ratio, teacher.mask_id, generator)
    logits = teacher.guided_logits(visible, condition, guidance_scale)
    divisor = temperature.view(-1, 1, 1) if isinstance(temperature, Tensor) else temperature
    refilled = sample_tokens(logits / divisor, generator=generator)
    return Refined(torch.where(is_masked, refilled, draft), is_masked)
