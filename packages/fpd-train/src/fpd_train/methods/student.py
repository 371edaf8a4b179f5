"""The student of any distillation: a trainable copy of the teacher's network, its grids and its export."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fpd_core.checkpoints import load_strict
from fpd_core.config import nearest
from fpd_core.generator import GenerationConfig, Generator, load_generator, save_generator
from fpd_core.teachers import Teacher, TeacherConfig
from fpd_train.methods.adapter import AdapterConfig, adapted, merged
from fpd_train.methods.interface import NetworkSettings
from fpd_train.shared_copy import shared_copy

STUDENT = "student"
GRID_COLUMNS = 10
Part = Literal["embeddings", "positions", "output_bias"]


def trainable_copy(network: nn.Module, frozen: Sequence[str] | None, adapter: AdapterConfig | None = None) -> nn.Module:
    """A copy in which all but the parts `frozen` learns; None keeps all the parts that the family names.

    Without dropout: a student's samples are its data, and a run's random numbers are a function of its step.

    Args:
        adapter: what is trained in place of the weights, which then lie in the memory of `network`.

    Raises:
        ConfigError: the family names no such part, or the adapter does not fit.
    """
    copy: Any = deepcopy(network) if adapter is None else shared_copy(network)
    copy.requires_grad_(True)
    for part in copy.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    groups: dict[str, list[nn.Parameter]] = copy.parameter_groups()
    for name in groups if frozen is None else frozen:
        if name not in groups:
            raise nearest(name, list(groups), "part of this family to freeze")
        for parameter in groups[name]:
            parameter.requires_grad_(False)
    made: nn.Module = copy if adapter is None else adapted(copy, adapter)
    return made


def go_on_from(folder: Path, network: nn.Module) -> None:
    """Give `network` the weights of the student exported to `folder`. Raises CheckpointError: none, or another kind."""
    load_strict(network, load_generator(folder).model.network.state_dict(), str(folder))


def settings_of(adapter: AdapterConfig | None) -> NetworkSettings:
    """How such a student is trained: with an adapter, nothing else of it is saved."""
    return NetworkSettings(saves_frozen=adapter is None)


@dataclass(frozen=True)
class Product:
    """How students of a run are sampled and written. `encoders`: networks that their loss compared images with."""

    teacher: Teacher
    teacher_config: TeacherConfig
    generation: GenerationConfig
    grid_images: int
    encoders: Sequence[str] = ()
    adapter: AdapterConfig | None = None

    def grid(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Images [N, 3, H, W], a column per class or prompt."""
        classes, prompts = self.teacher.num_classes, self.teacher.example_prompts
        columns = torch.arange(self.grid_images) % GRID_COLUMNS
        wanted = [prompts[i % len(prompts)] for i in columns] if classes is None else columns * classes // GRID_COLUMNS
        model = self.teacher.with_network(network)
        return Generator(model, self.generation, {}).generate(wanted, seed=generator.initial_seed())

    def export(self, folder: Path, network: nn.Module, card: str) -> None:
        """Write a weight folder that `load_generator` opens."""
        teacher_config = self.teacher_config.model_dump(mode="json")
        network = network if self.adapter is None else merged(network, self.teacher.network)
        save_generator(folder, self.teacher, network, self.generation, teacher_config, card, encoders=self.encoders)
