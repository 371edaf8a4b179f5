"""Fixed-Point Distillation as a method: the student, its loss, its export. The mathematics is `fpd_core.objective`."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fpd_core.conditioning import Condition
from fpd_core.config import Config, Flag, Size, nearest
from fpd_core.generator import GenerationConfig, Generator, save_generator
from fpd_core.kernel_batch import Chunk, first_pass, second_pass
from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import FixedPointLoss, ObjectiveConfig, fixed_point_loss
from fpd_core.teachers import AnyTeacherConfig, load_teacher
from fpd_core.teachers.fashion import FashionConfig
from fpd_core.weights import RequiredFile, require
from fpd_train.batch import Batch
from fpd_train.methods.interface import Forward, Parts, Report

Part = Literal["embeddings", "positions", "output_bias"]
GRID_COLUMNS = 10


class FpdConfig(Config):
    """Fixed-Point Distillation (arXiv 2605.21484)."""

    name: Literal["fpd"] = "fpd"
    teacher: AnyTeacherConfig = FashionConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    lift: LiftConfig = LiftConfig()
    drafts_per_condition: Size = Field(1, description="Images per condition in a batch; 1 as in the paper.")
    frozen: tuple[Part, ...] | None = Field(
        None,
        max_length=3,
        description="Student parts that keep the teacher's weights; by default all that the family names.",
    )
    gather: Flag = Field(True, description="Compare samples of all ranks; the loss then ignores how many there are.")
    grid_images: Size = Field(60, description="Images in each sample grid, ten to a row.")

    @model_validator(mode="after")
    def _condition_is_carried(self) -> "FpdConfig":
        if self.objective.own_target == "mask" and self.drafts_per_condition == 1:
            raise ValueError(
                "own_target 'mask' with one draft per condition leaves nothing that carries the condition: the loss "
                "would match images of all conditions alike; set drafts_per_condition to 8 or 16, or own_target 'keep'"
            )
        return self

    def required_files(self) -> list[RequiredFile]:
        """Published files the run opens."""
        backbone = [] if self.lift.space == "pixel" else self.lift.backbone.required_files()
        return self.teacher.required_files() + backbone


class FpdMethod:
    """One trained network, the student; teacher, decoder and backbone stay frozen beside it."""

    product = "student"

    def __init__(self, config: FpdConfig, parts: Parts) -> None:
        self._config, self._gather = config, config.gather and parts.world > 1
        self.drafts_per_condition = config.drafts_per_condition
        require(config.required_files())  # all that is missing at once, before anything large is read
        self._teacher = load_teacher(config.teacher).to(parts.device)
        self._teacher.autocast = parts.bfloat16
        self._lift = Lift(self._teacher, config.lift).to(parts.device)
        student: Any = deepcopy(self._teacher.network).requires_grad_(True)
        _switch_off_dropout(student)
        groups: dict[str, list[nn.Parameter]] = student.parameter_groups()
        for name in groups if config.frozen is None else config.frozen:
            if name not in groups:
                raise nearest(name, list(groups), "part of this family to freeze")
            for parameter in groups[name]:
                parameter.requires_grad_(False)
        self.networks: Mapping[str, nn.Module] = {"student": student}
        self._chunks: list[Chunk] = []

    def phases(self, step: int) -> Sequence[str]:
        return ["student"]

    def prepare(
        self,
        phase: str,
        batches: Sequence[Batch],
        forward: Mapping[str, Forward],
        generators: Sequence[torch.Generator],
    ) -> None:
        """Accumulated micro-batches are one drift problem: solved here, pulled back chunk by chunk in `loss`."""
        self._chunks = first_pass(
            forward[phase],
            self._teacher,
            self._lift,
            [self._conditions(batch) for batch in batches],
            self._config.objective,
            generators=generators,
            gather=self._gather,
        )

    def _conditions(self, batch: Batch) -> Condition:
        return self._teacher.condition(batch.condition).repeat_interleave(self._config.drafts_per_condition)

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator
    ) -> tuple[Tensor, Report]:
        parts, objective = (forward[phase], self._teacher, self._lift), self._config.objective
        if self._chunks:
            result = second_pass(*parts, self._chunks.pop(0), objective, generator=generator)
        else:
            result = fixed_point_loss(
                *parts, self._conditions(batch), objective, generator=generator, gather=self._gather
            )
        return result.loss, self._report(result)

    def _report(self, result: FixedPointLoss) -> Report:
        rms = torch.stack([block.rms for block in result.blocks])
        report = {
            "loss": result.loss.item(),
            "rms": rms.mean().item(),
            "alignment": torch.stack([block.alignment for block in result.blocks]).mean().item(),
            "entropy": result.entropy.item(),
            "changed": result.changed.item(),
        }
        for block, values in zip(self._block_names(), rms.tolist(), strict=True):
            for bandwidth, value in zip(self._config.objective.bandwidths, values, strict=True):
                report[f"rms/{block}/h{bandwidth:g}"] = value
        return report

    def _block_names(self) -> list[str]:
        lift = self._config.lift
        return ["pixels"] if lift.space == "pixel" else [f"block{index}" for index in sorted(lift.backbone.blocks)]

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        classes, prompts = self._teacher.num_classes, self._teacher.example_prompts
        columns = torch.arange(self._config.grid_images) % GRID_COLUMNS
        wanted = [prompts[i % len(prompts)] for i in columns] if classes is None else columns * classes // GRID_COLUMNS
        return self._generator(averaged["student"]).generate(wanted, seed=generator.initial_seed())

    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        return {}  # images are judged by fpd-eval, with networks that are not part of the loss

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        teacher_config = self._config.teacher.model_dump(mode="json")
        save_generator(folder, self._teacher, averaged["student"], self._generation(), teacher_config, card)

    def _generation(self) -> GenerationConfig:
        objective = self._config.objective
        return GenerationConfig(init_mask_ratio=objective.init_mask_ratio, embedding_noise=objective.embedding_noise)

    def _generator(self, network: nn.Module) -> Generator:
        model = deepcopy(self._teacher)
        model.network = network
        return Generator(model, self._generation(), {})


def _switch_off_dropout(module: nn.Module) -> None:
    """The student sees its own samples as data; noise inside the network would blur what the drift compares."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
