"""Exponential moving averages of weights, kept in float32 beside the trained networks."""

from collections.abc import Iterable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.checkpoints import load_strict
from fpd_core.config import Config, Flag, Share
from fpd_train.shared_copy import shared_copy


class EmaConfig(Config):
    """Averaging of the weights that are evaluated and exported."""

    enabled: Flag = Field(
        True, description="False evaluates and exports the trained weights themselves: one float32 copy less."
    )
    decay: Share = Field(0.9999, description="Upper limit of the decay.")
    warmup: Flag = Field(
        True, description="Decay min(decay, (1+n)/(10+n)) after n updates: short runs forget their start."
    )


def decay_at(updates: int, config: EmaConfig) -> float:
    """Decay of update number `updates` (0-based)."""
    return min(config.decay, (1 + updates) / (10 + updates)) if config.warmup else config.decay


class Ema:
    """A frozen float32 copy of a network that follows its master weights. `module` is ready to sample from.

    What is not trained is not copied: it lies in the network's own memory.

    Args:
        saves_frozen: whether `state` holds what is not trained as well.
    """

    def __init__(self, module: nn.Module, config: EmaConfig, *, saves_frozen: bool = True) -> None:
        self.config = config
        frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
        self._left_out = set() if saves_frozen else set(frozen)
        # Without an average the trained network stands in its place: nothing is copied, saved or moved.
        self.module = shared_copy(module).float().eval().requires_grad_(False) if config.enabled else module

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds; nothing where there is no average."""
        if not self.config.enabled:
            return {}
        return {name: value for name, value in self.module.state_dict().items() if name not in self._left_out}

    def load(self, state: Mapping[str, Tensor], source: str) -> None:
        """Take what `state` gave. Raises CheckpointError: keys or shapes differ; names `source`."""
        if not self.config.enabled:
            return
        kept = {name: value for name, value in self.module.state_dict().items() if name in self._left_out}
        load_strict(self.module, kept | dict(state), source)

    @torch.no_grad()
    def update(self, updates: int, masters: Iterable[tuple[str, Tensor]], buffers: Mapping[str, Tensor]) -> None:
        """Move toward `masters` (name, float32 weight); buffers (statistics, codebooks) are copied as they are."""
        if not self.config.enabled:
            return
        own = dict(self.module.named_parameters())
        weight = 1 - decay_at(updates, self.config)
        for name, master in masters:
            own[name].lerp_(master.to(own[name]), weight)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])
