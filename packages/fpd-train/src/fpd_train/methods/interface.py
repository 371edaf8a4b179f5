"""The contract between the trainer and what is trained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fpd_train.batch import Batch

Report = dict[str, float]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Parts:
    """What the run gives a method: its device, how many ranks share a batch, the run's seed, and whether transformers
    run in bfloat16 (`engine.precision`)."""

    device: torch.device
    world: int
    seed: int
    bfloat16: bool = False


class Method(Protocol):
    """Owns the networks and the loss; knows nothing of optimizers, ranks' data, logs or files of the run.

    Attributes:
        networks: trained modules by name; each gets an engine and an EMA of its own.
        product: name of the exported folder inside the run folder.
        drafts_per_condition: images made from each condition of a batch; the stream yields that many fewer conditions.
    """

    networks: Mapping[str, nn.Module]
    product: str
    drafts_per_condition: int

    def phases(self, step: int) -> Sequence[str]:
        """Names of the networks to update at a step, in order."""
        ...

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator
    ) -> tuple[Tensor, Report]:
        """Scalar loss of a phase and numbers to log. `forward[phase]` runs the network that is being updated."""
        ...

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        """Images [N, 3, H, W] in [0, 1] that show progress, from the averaged networks, ten to a row."""
        ...

    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        """Measured quality of the averaged networks; `validation` is endless. Empty where nothing cheap means much."""
        ...

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        """Write the finished networks as a weight folder with `card` as its model card."""
        ...


@runtime_checkable
class BatchCoupled(Protocol):
    """A method whose loss compares all samples of a step, however many micro-batches they come in."""

    def prepare(
        self,
        phase: str,
        batches: Sequence[Batch],
        forward: Mapping[str, Forward],
        generators: Sequence[torch.Generator],
    ) -> None:
        """Called before the losses of a step's micro-batches, where there are several, with what they will be given."""
        ...
