"""g of the refining teacher: a number, the sampler's, or a function of the re-masked share r."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from torch import Tensor

from fpd_core.config import Config, Guidance


class GuidanceRamp(Config):
    """g that moves linearly with r, between its values at r = 0 and at r = 1."""

    at_zero: Guidance = Field(description="g where nothing is re-masked.")
    at_one: Guidance = Field(description="g where all is re-masked.")

    def at(self, ratio: Tensor) -> Tensor:
        """g at shares `ratio`, any shape."""
        return self.at_zero + (self.at_one - self.at_zero) * ratio


def guided(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """u + g (c - u) of logits [B, L, K], for one g or one per sample, [B]; g = 1 is the conditional model."""
    scale = scale.view(-1, 1, 1) if isinstance(scale, Tensor) else scale
    return unconditional + scale * (conditional - unconditional)


def _one_of_its_forms(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(
            "Input should be a number from 0 to 100, 'sampler', or numbers from 0 to 100 at both ends of r: "
            '{"at_zero": 1.5, "at_one": 3}'
        ) from None


RefinementGuidance = Annotated[Guidance | Literal["sampler"] | GuidanceRamp, WrapValidator(_one_of_its_forms)]
