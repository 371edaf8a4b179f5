"""Exponential moving averages of weights, kept in float32 beside the trained networks."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch import distributed as dist

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


@dataclass(frozen=True)
class Piece:
    """One rank's part of a trained weight: `values` of its flat float32 master, from `start` on."""

    name: str
    start: int
    values: Tensor


class Ema:
    """A frozen float32 copy of a network that follows its master weights.

    What is not trained is not copied: it lies in the network's own memory. With several ranks each keeps and moves its
    own share of the rest, once `shard` was called; `gathered` puts them together.

    Args:
        saves_frozen: whether `state` holds what is not trained as well.

    Attributes:
        module: the copy, ready to sample from where it is whole.
    """

    def __init__(self, module: nn.Module, config: EmaConfig, *, saves_frozen: bool = True) -> None:
        self.config = config
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._left_out = set() if saves_frozen else {name for name, _ in module.named_parameters()} - trained.keys()
        # Without an average the trained network stands in its place: nothing is copied, saved or moved.
        self.module = shared_copy(module).float().eval().requires_grad_(False) if config.enabled else module
        self._trained = {name: p for name, p in self.module.named_parameters() if name in trained}
        self._shapes = {name: p.shape for name, p in self._trained.items()}
        self._starts: dict[str, int] | None = None
        self._own = {name: p.detach().view(-1) for name, p in self._trained.items()} if config.enabled else {}

    def shard(self, pieces: Iterable[Piece]) -> None:
        """Keep what lies where `pieces` do, and no more."""
        if self.config.enabled:
            places = {piece.name: (piece.start, len(piece.values)) for piece in pieces}
            self._starts = {name: start for name, (start, _) in places.items()}
            self._own = {name: self._own[name].narrow(0, *place).clone() for name, place in places.items()}
            self._release()

    @contextmanager
    def gathered(self, *, everywhere: bool = False) -> Iterator[nn.Module]:
        """The average, whole on rank 0 or everywhere while this lasts. Collective."""
        if self._starts is not None:
            for name, parameter in self._trained.items():
                whole = self._whole(name, parameter.device, everywhere)
                if everywhere or dist.get_rank() == 0:
                    parameter.data = whole
        yield self.module
        if self._starts is not None:
            self._release()

    def parts(self) -> Iterator[tuple[str, Tensor]]:
        """What this rank keeps of it, by name."""
        yield from self._own.items()
        yield from self.module.named_buffers()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: nothing where there is no average, or on ranks other than 0. Collective."""
        if not self.config.enabled:
            return {}
        with self.gathered() as module:
            if self._starts is not None and dist.get_rank() != 0:
                return {}
            return {name: value for name, value in module.state_dict().items() if name not in self._left_out}

    def load(self, state: Mapping[str, Tensor], source: str) -> None:
        """Take what `state` gave. Raises CheckpointError: keys or shapes differ; names `source`."""
        if not self.config.enabled:
            return
        if self._starts is not None:
            for name, parameter in self._trained.items():
                parameter.data = torch.empty(self._shapes[name], device=parameter.device)
        kept = {name: value for name, value in self.module.state_dict().items() if name in self._left_out}
        load_strict(self.module, kept | dict(state), source)
        if self._starts is not None:
            for name, own in self._own.items():
                own.copy_(self._trained[name].view(-1).narrow(0, self._starts[name], len(own)))
            self._release()

    @torch.no_grad()
    def update(self, updates: int, masters: Iterable[tuple[str, Tensor]], buffers: Mapping[str, Tensor]) -> None:
        """Move toward `masters` (name, float32 weight or its share); buffers (statistics, codebooks) are copied."""
        if not self.config.enabled:
            return
        weight = 1 - decay_at(updates, self.config)
        for name, master in masters:
            self._own[name].lerp_(master.reshape(-1).to(self._own[name]), weight)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])

    def _whole(self, name: str, device: torch.device, everywhere: bool) -> Tensor:
        """A weight on rank 0 or everywhere, the sum of shares that do not overlap."""
        assert self._starts is not None
        flat = torch.zeros(self._shapes[name].numel(), device=device)
        if name in self._own:
            own = self._own[name]
            flat.narrow(0, self._starts[name], len(own)).copy_(own)
        if everywhere:
            dist.all_reduce(flat)
        else:
            dist.reduce(flat, 0)
        return flat.view(self._shapes[name])

    def _release(self) -> None:
        for parameter in self._trained.values():
            parameter.data = torch.empty(0, device=parameter.device)
