"""How a network is optimised: typed sections that say nothing of DeepSpeed, so that reading a config is quick."""

import math
from typing import Literal

from pydantic import Field, model_validator

from fpd_core.config import Config, Flag, Number, Share, Size, Steps, Whole

Precision = Literal["float32", "bfloat16"]
GRADIENT_BUCKET = 500_000_000  # elements that ranks reduce at a time, at most; DeepSpeed's default


class OptimizerConfig(Config):
    """AdamW and its learning-rate schedule."""

    lr: Number = Field(1e-5, gt=0, le=1, description="Peak learning rate.")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="Decay of Adam's two averages, per step.")
    eps: Number = Field(1e-8, ge=1e-16, le=1, description="Adam's addition to the denominator.")
    first_moment: Flag = Field(
        True, description="Average gradients too (betas[0]); false saves one float32 copy of the trained weights."
    )
    weight_decay: Number = Field(0.0, ge=0, le=10, description="Decoupled from the gradient, as in AdamW.")
    warmup_steps: Whole = Field(100, ge=0, le=10**6, description="Linear warm-up, in optimizer steps.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="After the warm-up; cosine ends at zero.")
    clip: Number = Field(1.0, ge=0, le=1e6, description="Global gradient norm limit; 0 switches clipping off.")


class EngineConfig(Config):
    """How DeepSpeed runs a network."""

    zero_stage: Whole = Field(1, ge=0, le=3, description="1 or 2 suits networks up to a billion parameters.")
    precision: Precision = Field("float32", description="Of forward and backward; master weights stay float32.")
    accumulation: Size = Field(
        1, description="Micro-batches per step. The drift loss compares all of them, in the memory of one."
    )
    joint_draws: Flag = Field(
        True,
        description="Ranks draw the random numbers of their whole batch and take their own: how many ranks there are "
        "then changes nothing. False draws each rank's alone, for many ranks and large codebooks.",
    )
    activation_checkpointing: Literal["off", "student", "all"] = Field(
        "off",
        description="Compute again in the backward pass, in place of keeping: the blocks of trained networks; `all` "
        "also the decoder and the backbones.",
    )
    compile: Literal["off", "inductor", "eager"] = Field(
        "off", description="torch.compile of trained and frozen networks; `eager` traces and generates no code."
    )
    offload: Literal["off", "optimizer", "all"] = Field(
        "off", description="What lies in the CPU's memory: masters and optimizer; `all`, at zero_stage 3, weights too."
    )
    partition_frozen: Flag = Field(
        False, description="At zero_stage 3, share the frozen networks' weights among the ranks as well."
    )
    max_skipped: Steps = Field(20, description="Non-finite steps in a row after which training stops.")

    @model_validator(mode="after")
    def _masters_exist(self) -> "EngineConfig":
        if self.zero_stage == 0 and self.precision != "float32":
            raise ValueError("zero_stage 0 keeps no float32 masters for bfloat16; use zero_stage 1")
        needed = {"off": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < needed:
            raise ValueError(f"offload {self.offload!r} needs zero_stage {needed} or more")
        if self.partition_frozen and self.zero_stage < 3:
            raise ValueError("partition_frozen needs zero_stage 3")
        return self


def learning_rate_factor(step: int, optimizer: OptimizerConfig, steps: int) -> float:
    """Share of the peak learning rate at an optimizer step (0-based)."""
    if step < optimizer.warmup_steps:
        return (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return 1.0
    progress = (step - optimizer.warmup_steps) / max(1, steps - optimizer.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
