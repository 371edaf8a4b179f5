"""How a network is optimised: typed sections that say nothing of DeepSpeed, so that reading a config is quick."""

import math
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fpd_core.config import Config


class OptimizerConfig(Config):
    """AdamW and its learning-rate schedule."""

    lr: PositiveFloat = Field(1e-5, description="Peak learning rate.")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(100, ge=0, description="Linear warm-up, in optimizer steps.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="After the warm-up; cosine ends at zero.")
    clip: float = Field(1.0, ge=0, description="Global gradient norm limit; 0 switches clipping off.")


class EngineConfig(Config):
    """How DeepSpeed runs a network."""

    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="1 or 2 suits networks up to a billion parameters.")
    precision: Literal["float32", "bfloat16"] = "float32"
    accumulation: PositiveInt = Field(
        1, description="Micro-batches per step. The drift loss couples a batch, so prefer a larger micro-batch."
    )
    max_skipped: PositiveInt = Field(20, description="Non-finite steps in a row after which training stops.")

    @model_validator(mode="after")
    def _masters_exist(self) -> "EngineConfig":
        if self.zero_stage == 0 and self.precision != "float32":
            raise ValueError("zero_stage 0 keeps no float32 masters for bfloat16; use zero_stage 1")
        return self


def learning_rate_factor(step: int, optimizer: OptimizerConfig, steps: int) -> float:
    """Share of the peak learning rate at an optimizer step (0-based)."""
    if step < optimizer.warmup_steps:
        return (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return 1.0
    progress = (step - optimizer.warmup_steps) / max(1, steps - optimizer.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
