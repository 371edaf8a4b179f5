"""Exponential moving averages of weights, kept in float32 beside the trained networks."""

from collections.abc import Iterable, Mapping
from copy import deepcopy

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.config import Config, Flag, Share


class EmaConfig(Config):
    """Averaging of the weights that are evaluated and exported."""

    decay: Share = Field(0.9999, description="Upper limit of the decay.")
    warmup: Flag = Field(
        True, description="Decay min(decay, (1+n)/(10+n)) after n updates: short runs forget their start."
    )


def decay_at(updates: int, config: EmaConfig) -> float:
    """Decay of update number `updates` (0-based)."""
    return min(config.decay, (1 + updates) / (10 + updates)) if config.warmup else config.decay


class Ema:
    """A frozen float32 copy of a network that follows its master weights. `module` is ready to sample from."""

    def __init__(self, module: nn.Module, config: EmaConfig) -> None:
        self.config = config
        self.module = deepcopy(module).float().eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, updates: int, masters: Iterable[tuple[str, Tensor]], buffers: Mapping[str, Tensor]) -> None:
        """Move toward `masters` (name, float32 weight); buffers (statistics, codebooks) are copied as they are."""
        own = dict(self.module.named_parameters())
        weight = 1 - decay_at(updates, self.config)
        for name, master in masters:
            own[name].lerp_(master.to(own[name]), weight)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])
