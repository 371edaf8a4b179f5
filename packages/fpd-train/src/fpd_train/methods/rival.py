"""What the rivals share: a teacher, a student that starts as its copy, grids and exports. The rest is a file each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.conditioning import Condition, network_input, replaced
from fpd_core.config import Config, Size, Temperature
from fpd_core.generator import GenerationConfig
from fpd_core.networks.extra_inputs import extended
from fpd_core.networks.token_transformer import ExtraInput, TokenTransformer
from fpd_core.teachers import AnyTeacherConfig, load_teacher
from fpd_core.teachers.fashion import FashionConfig
from fpd_core.weights import RequiredFile, require
from fpd_train.batch import Batch
from fpd_train.methods.interface import AS_THE_RUN_SAYS, NetworkSettings, Parts, Report
from fpd_train.methods.real_tokens import check_encoder
from fpd_train.methods.student import STUDENT, Part, Product, trainable_copy


class RivalConfig(Config):
    """What every rival's section has."""

    teacher: AnyTeacherConfig = Field(FashionConfig(), description="The student starts as its copy.")
    frozen: tuple[Part, ...] = Field(
        (), max_length=3, description="Parts that keep the teacher's weights, in all trained copies of it."
    )
    sampling_temperature: Temperature = Field(1.0, description="Divides the exported student's logits.")
    grid_images: Size = Field(60, description="Images in each sample grid, ten to a row.")

    def required_files(self) -> list[RequiredFile]:
        """Published files the run opens."""
        return self.teacher.required_files()


class Rival:
    """A method with a student that starts as the teacher, and perhaps more networks beside it.

    Args:
        generation: how the student is sampled.
        needs_images: refuse a teacher that cannot encode.
        extra_input: what the student reads beside tokens and condition.

    Raises:
        ValueError: the teacher's family cannot do what the method asks for.
    """

    product = STUDENT
    drafts_per_condition = 1
    settings: Mapping[str, NetworkSettings] = AS_THE_RUN_SAYS

    def __init__(
        self,
        config: RivalConfig,
        parts: Parts,
        generation: GenerationConfig,
        *,
        needs_images: bool = False,
        extra_input: ExtraInput = "none",
    ) -> None:
        require(config.required_files())
        self.teacher = load_teacher(config.teacher).to(parts.device)
        self.teacher.autocast = parts.bfloat16
        if needs_images:
            check_encoder(self.teacher, "the method learns from real images")
        network = self.teacher.network
        if extra_input != "none":
            network = extended(open_in_the_middle(network, "a student that reads more than tokens"), extra_input)
        self.frozen = config.frozen
        self.networks: Mapping[str, nn.Module] = {STUDENT: trainable_copy(network, config.frozen)}
        self.made = Product(self.teacher, config.teacher, generation, config.grid_images)

    def phases(self, step: int) -> Sequence[str]:
        """Every network once a step, the student first."""
        return list(self.networks)

    def condition(self, batch: Batch) -> Condition:
        return self.teacher.condition(batch.condition)

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        return self.made.grid(averaged[STUDENT], generator)

    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        return {}  # images are judged by fpd-eval

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        self.made.export(folder, averaged[STUDENT], card)


def open_in_the_middle(network: nn.Module, what: str) -> TokenTransformer:
    """The network. Raises ValueError: it cannot be entered behind its token embeddings, and `what` needs that."""
    if not isinstance(network, TokenTransformer):
        raise ValueError(f"{what} needs a teacher of the families fashion, maskgit or scenes")
    return network


def dropped(condition: Condition, null: Condition, share: float, generator: torch.Generator) -> Condition:
    """The conditions, each replaced by the null one with probability `share`."""
    example = network_input(condition)
    is_dropped = torch.rand(len(condition), generator=generator, device=example.device) < share
    return replaced(condition, is_dropped, null)


def uniform(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Numbers of U(0, 1) on the device of `like`, float32."""
    return torch.rand(*shape, generator=generator, device=like.device)


def gumbel(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard Gumbel numbers on the device of `like`, float32."""
    return -(-uniform(shape, generator, like).clamp_min(1e-20).log()).clamp_min(1e-20).log()
