"""One guided teacher step T_φ^r: re-mask a draft and let the teacher refill it (eq. 5).

A student whose drafts this leaves unchanged in distribution is at the fixed point of eq. 3.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Config, MaskShare, Number, Share, Size
from fpd_core.draws import uniform
from fpd_core.masking import masked_count, remask
from fpd_core.schedules import Schedule, is_decreasing, mask_ratio
from fpd_core.ste import sample_tokens
from fpd_core.teachers.teacher import Teacher

Order = Literal["random", "confidence"]
_Share = Annotated[Number, Field(ge=0, le=1)]


class MaskLaw(Config):
    """A law of the share r that the teacher refills."""

    schedule: Schedule = Field("arccos", description="γ(u) of a uniform u; `linear` is the uniform law.")
    clamp: tuple[_Share, MaskShare] = Field((0.05, 0.95), description="r is clamped to this range.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.clamp
        if low > high:
            raise ValueError(f"clamp must be two ordered numbers, got {self.clamp}")
        return self

    def at(self, u: Tensor) -> Tensor:
        """Shares for uniform u, any shape."""
        return mask_ratio(u, self.schedule).clamp(*self.clamp)


class RemaskConfig(MaskLaw):
    """π, which may move through a run, and the passes of a refinement."""

    end: MaskLaw | None = Field(
        None, description="π at the end of the run, reached linearly, quantile by quantile; null: π stays."
    )
    hold: Share = Field(0.0, description="Share of the run before π begins to move towards `end`.")
    passes: Size = Field(
        1,
        description="Teacher forwards that refill what is hidden. One draws the tokens independently, as in the paper.",
    )
    order: Order = Field("random", description="Of several passes: which tokens are kept first.")

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.hold and self.end is None:
            raise ValueError(f"hold {self.hold:g} delays the way to an end, and end is null: give one, or hold 0")
        return self

    def draw(
        self, batch: int, device: torch.device, generator: torch.Generator | None = None, progress: float = 0.0
    ) -> Tensor:
        """[batch] ratios where `progress` in [0, 1] of the run is done."""
        return self.at_progress(uniform(batch, generator=generator, device=device), progress)

    def at_progress(self, u: Tensor, progress: float) -> Tensor:
        """Shares for uniform u, any shape, where `progress` in [0, 1] of the run is done."""
        start = self.at(u)
        if self.end is None:
            return start
        # Equal quantiles: a u that gives the start's large shares must not give the end's small ones.
        end = self.end.at(u if is_decreasing(self.schedule) == is_decreasing(self.end.schedule) else 1 - u)
        moved = max(0.0, progress - self.hold) / (1 - self.hold)
        return start + (end - start) * moved

    def check_passes(self, length: int) -> None:
        """Raises ValueError: more passes than π ever hides of `length` tokens."""
        highest = max(law.clamp[1] for law in (self, self.end) if law is not None)
        hidden = int(masked_count(length, torch.tensor(highest, device="cpu")))
        if self.passes > hidden:
            raise ValueError(
                f"remask.passes {self.passes} is above the {hidden} of {length} tokens that π hides at most; "
                f"a pass needs a token to keep, so give {hidden} or fewer"
            )


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
    passes: int = 1,
    order: Order = "random",
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> Refined:
    """T_φ^r (eq. 5): hide round(rL) draft tokens, refill all of them from guided teacher forwards.

    Tokens of one forward are drawn independently, and the fixed point inherits that error. Several passes keep an equal
    share of the hidden tokens each (a pass may keep none where fewer are hidden) and see what the ones before kept.

    Args:
        draft: [B, L] codes.
        ratio: r, one number or [B].
        guidance_scale, temperature: g, and what divides the guided logits; one number or [B]
            (`Teacher.refinement` gives a family's own).
        passes: teacher forwards; 1 is the paper's.
        order: of several passes, which tokens are kept first: "random" ones, or those whose drawn code the teacher
            finds likeliest ("confidence"), which is quicker to look right and no longer draws from the teacher's law.
        chunk: codes at a time when tokens are drawn (`ste.sample_tokens`).

    Returns:
        Tokens equal to the draft wherever it stayed visible. Nothing is masked again: the target must decode.

    Raises:
        ValueError: `passes` is not positive, or above the tokens of a sequence.
    """
    if not 1 <= passes <= draft.shape[1]:
        raise ValueError(f"passes must be at least 1 and at most the {draft.shape[1]} tokens, got {passes}")
    tokens, is_masked = remask(draft, ratio, teacher.mask_id, generator)
    divisor = temperature.view(-1, 1, 1) if isinstance(temperature, Tensor) else temperature
    for left in range(passes, 0, -1):
        logits = teacher.guided_logits(tokens, condition, guidance_scale) / divisor
        refilled = sample_tokens(logits, generator=generator, chunk=chunk)
        is_hidden = tokens == teacher.mask_id
        keep = is_hidden if left == 1 else _kept(is_hidden, left, order, logits, refilled, generator)
        tokens = torch.where(keep, refilled, tokens)
    return Refined(tokens, is_masked)


def _kept(
    is_hidden: Tensor, left: int, order: Order, logits: Tensor, refilled: Tensor, generator: torch.Generator | None
) -> Tensor:
    """The tokens [B, L] that this pass keeps: of n hidden ones ceil(n / left), the first in the order."""
    if order == "random":
        rank = uniform(*is_hidden.shape, generator=generator, device=is_hidden.device)
    else:
        rank = -logits.float().log_softmax(-1).gather(-1, refilled[..., None])[..., 0]
    place = rank.masked_fill(~is_hidden, torch.inf).argsort(dim=1).argsort(dim=1)
    count = (is_hidden.sum(dim=1, keepdim=True) + left - 1) // left
    return is_hidden & (place < count)
