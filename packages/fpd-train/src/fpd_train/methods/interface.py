"""The contract between the trainer and what is trained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fpd_train.batch import Batch
from fpd_train.engine_config import OptimizerConfig, Precision

Report = dict[str, float]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Parts:
    """What the run gives a method: its device, how many ranks share a batch, the run's seed and optimizer steps,
    whether transformers run in bfloat16 (`engine.precision`), and the run folder, for files that could be made again
    (None: keep none)."""

    device: torch.device
    world: int
    seed: int
    steps: int
    bfloat16: bool = False
    folder: Path | None = None


@dataclass(frozen=True)
class NetworkSettings:
    """How a network is trained in place of what the run says; None leaves that to the run.

    `clip` is that of the optimizer, whichever it is.
    `saves_frozen`: checkpoints also hold the weights that are not trained; without, the method brings them again.
    """

    optimizer: OptimizerConfig | None = None
    clip: float | None = None
    precision: Precision | None = None
    saves_frozen: bool = True


AS_THE_RUN_SAYS: Mapping[str, NetworkSettings] = MappingProxyType({})


class Method(Protocol):
    """Owns the networks and the loss; knows nothing of optimizers, ranks' data, logs or files of the run.

    Attributes:
        networks: trained modules by name; each gets an engine and an EMA of its own. The numbers of the first one's
            engine are logged as they are, those of others with `/name` behind.
        settings: by name, for networks that are not trained as the run says.
        product: name of the exported folder inside the run folder.
        drafts_per_condition: images made from each condition of a batch; the stream yields that many fewer conditions.
    """

    networks: Mapping[str, nn.Module]
    settings: Mapping[str, NetworkSettings]
    product: str
    drafts_per_condition: int

    def phases(self, step: int) -> Sequence[str]:
        """Names of the networks to update at a step, in order."""
        ...

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        """Scalar loss of a phase and numbers to log.

        `forward[phase]` runs the network that is being updated; the step's other networks are there as they are.
        What moves through a run is a function of `step`, in [0, Parts.steps): a resumed run has nothing to remember.
        """
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
class Monitored(Protocol):
    """A method that measures its averaged networks now and then, without touching what training does."""

    def is_monitored(self, step: int) -> bool:
        """Whether there is a measurement after step `step`, counted from 1. The same on all ranks."""
        ...

    def monitor(self, averaged: Mapping[str, nn.Module], cache: Path) -> Report:
        """The numbers. Called on rank 0 alone, so nothing collective happens here.

        Args:
            cache: the run folder, for files that could be made again.
        """
        ...


@runtime_checkable
class Distils(Protocol):
    """A method whose loss passes through frozen networks.

    Attributes:
        frozen: these networks by name, each called as a module; what of them is not here runs as it is.
        stages: parts of a step by name: the object and its method that does them. `decode` and `lift` have gradients.
    """

    frozen: Mapping[str, nn.Module]
    stages: Mapping[str, tuple[Any, str]]


@runtime_checkable
class BatchCoupled(Protocol):
    """A method whose loss compares all samples of a step, however many micro-batches they come in."""

    def prepare(
        self,
        phase: str,
        batches: Sequence[Batch],
        forward: Mapping[str, Forward],
        generators: Sequence[torch.Generator],
        step: int,
    ) -> None:
        """Called before the losses of a step's micro-batches, where there are several, with what they will be given."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A method that has more to remember than its networks.

    Attributes:
        remembered: frozen modules that change while training, by name, equal on all ranks: checkpoints hold them.
    """

    remembered: Mapping[str, nn.Module]


@runtime_checkable
class InRounds(Remembers, Protocol):
    """A method whose student becomes the teacher of the next round.

    `remembered` are its frozen networks that change between rounds.
    """

    def ends_round(self, done: int) -> bool:
        """Whether a round ends with step `done`, counted from 1, and another follows. The same on all ranks."""
        ...

    def hand_over(self, masters: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Begin the next round. `masters`: by network, the float32 weights of all that learns; equal on all ranks."""
        ...

    def export_round(self, done: int, output: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        """Write the networks of the round that ends with step `done` into the run folder `output`. On rank 0 alone."""
        ...
