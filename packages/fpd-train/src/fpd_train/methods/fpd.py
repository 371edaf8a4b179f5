"""Fixed-Point Distillation as a method: the student, its loss, its export. The mathematics is `fpd_core.objective`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fpd_core.conditioning import Condition
from fpd_core.config import Config, Flag, Location, Size, Temperature
from fpd_core.draws import with_drafts
from fpd_core.generator import GenerationConfig
from fpd_core.kernel_batch import Chunk, first_pass, second_pass
from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import FixedPointLoss, ObjectiveConfig, fixed_point_loss
from fpd_core.teachers import AnyTeacherConfig, load_teacher
from fpd_core.teachers.fashion import FashionConfig
from fpd_core.weights import RequiredFile, require
from fpd_train.batch import Batch
from fpd_train.methods.adapter import AdapterConfig
from fpd_train.methods.comparison import run_comparison
from fpd_train.methods.gan import DISCRIMINATOR, Gan, GanConfig
from fpd_train.methods.interface import Forward, NetworkSettings, Parts, Report
from fpd_train.methods.monitor import Monitor, MonitorConfig
from fpd_train.methods.student import STUDENT, Part, Product, go_on_from, settings_of, trainable_copy


class FpdConfig(Config):
    """Fixed-Point Distillation (arXiv 2605.21484)."""

    name: Literal["fpd"] = "fpd"
    teacher: AnyTeacherConfig = Field(
        FashionConfig(), description="Refines the drafts; the student starts as its copy."
    )
    start: Location | None = Field(
        None, description="Exported student of this teacher whose training goes on; null: a copy of the teacher."
    )
    objective: ObjectiveConfig = Field(ObjectiveConfig(), description="Drafts, refinement and drift (eqs. 1, 4-8).")
    lift: LiftConfig = Field(LiftConfig(), description="The space in which drafts and refinements are compared.")
    drafts_per_condition: Size = Field(1, description="Images per condition in a batch; 1 as in the paper.")
    frozen: tuple[Part, ...] | None = Field(
        None,
        max_length=3,
        description="Student parts that keep the teacher's weights; by default all that the family names.",
    )
    adapter: AdapterConfig | None = Field(
        None, description="Train low-rank additions to the student's layers, not its weights; null: the weights."
    )
    teacher_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the teacher's frozen transformer, whose arithmetic engine.precision decides anyway."
    )
    sampling_temperature: Temperature = Field(
        1.0, description="Divides the exported student's logits; the loss itself always samples at 1."
    )
    gather: Flag = Field(True, description="Compare samples of all ranks; the loss then ignores how many there are.")
    gan: GanConfig | None = Field(None, description="The optional adversarial term; needs real images as data.")
    monitor: MonitorConfig | None = Field(None, description="Progress on held-out drafts while training; null: none.")
    grid_images: Size = Field(60, description="Images in each sample grid, ten to a row.")

    @model_validator(mode="after")
    def _sections_agree(self) -> "FpdConfig":
        if self.objective.own_target == "mask" and self.drafts_per_condition == 1:
            raise ValueError(
                "own_target 'mask' with one draft per condition leaves nothing that carries the condition: the loss "
                "would match images of all conditions alike; set drafts_per_condition to 8 or 16, or own_target 'keep'"
            )
        distance = self.objective.distance
        if distance.needs_several_drafts and self.drafts_per_condition == 1:
            raise ValueError(
                f"distance {distance.name!r} compares samples of one condition, and there is one draft of each; "
                "set drafts_per_condition to 8 or 16, or have the distance pool conditions"
            )
        if distance.remembers and not self.gather:
            raise ValueError(f"distance {distance.name!r} remembers what all ranks saw; set gather to true")
        if self.start is not None and self.adapter is not None:
            raise ValueError("an adapter adds to the teacher's weights, and start brings others; leave one at null")
        if self.monitor is not None:
            self.monitor.heldout(self.lift)
        return self

    @property
    def image_use(self) -> str | None:
        """What the run needs real images for, if it does: the beginning of a sentence."""
        return None if self.gan is None else "method.gan compares with real images"

    def required_files(self) -> list[RequiredFile]:
        """Published files the run opens."""
        unseen = None if self.monitor is None else self.monitor.heldout(self.lift)
        spaces = self.lift.spaces if unseen is None else [*self.lift.spaces, unseen]
        features = [file for space in spaces for file in space.required_files()]
        return self.teacher.required_files() + features + (self.gan.required_files() if self.gan else [])

    def encoders(self) -> tuple[str, ...]:
        """Networks that the loss compares images with: the lift's and the discriminator's."""
        branches = self.gan.branches if self.gan else ()
        return (*(space.label for space in self.lift.spaces), *(branch.name for branch in branches))


class FpdMethod:
    """The student and, with the adversarial term, a discriminator; teacher, decoder and backbones stay frozen."""

    product = STUDENT

    def __init__(self, config: FpdConfig, parts: Parts) -> None:
        self._config, self._gather, self._steps = config, config.gather and parts.world > 1, parts.steps
        require(config.required_files())  # all that is missing at once, before anything large is read
        self._teacher = load_teacher(config.teacher).to(parts.device)
        self._teacher.autocast = parts.bfloat16
        config.objective.remask.check_passes(self._teacher.seq_len)
        self._lift = Lift(self._teacher, config.lift).to(parts.device)
        student = trainable_copy(self._teacher.network, config.frozen, config.adapter)
        if config.start is not None:
            go_on_from(config.start, student)
        if config.teacher_precision == "bfloat16":
            self._teacher.network.to(torch.bfloat16)  # after the student was copied from it
        self.networks: Mapping[str, nn.Module] = {STUDENT: student}
        self.settings: Mapping[str, NetworkSettings] = {STUDENT: settings_of(config.adapter)}
        generation = GenerationConfig(
            init_mask_ratio=config.objective.init_mask_ratio,
            embedding_noise=config.objective.embedding_noise,
            temperature=config.sampling_temperature,
        )
        self._product = Product(
            self._teacher, config.teacher, generation, config.grid_images, config.encoders(), config.adapter
        )
        self._chunks: list[Chunk] = []
        objective = config.objective
        self._comparison = run_comparison(objective, self._teacher, config.teacher, self._lift, parts)
        self.remembered: Mapping[str, nn.Module] = (
            {"distance": self._comparison.distance} if objective.distance.remembers else {}
        )
        decoder = getattr(getattr(self._teacher, "tokenizer", None), "decoder", None)
        backbones = {label: space.backbone for label, space in self._lift.spaces.items() if space.backbone is not None}
        self.frozen: Mapping[str, nn.Module] = (
            {"teacher": self._teacher.network} | ({"decoder": decoder} if decoder is not None else {}) | backbones
        )
        self.stages: Mapping[str, tuple[Any, str]] = {
            "teacher": (self._teacher.network, "forward"),
            "decode": (self._lift, "decode"),
            "lift": (self._lift, "features"),
            "drift": (self._comparison.distance, "forward"),
        }
        self.drafts_per_condition = config.drafts_per_condition
        self._gan = None if config.gan is None else Gan(config.gan, config.objective, self._teacher, parts)
        if self._gan is not None:
            self.networks = {STUDENT: student, DISCRIMINATOR: self._gan.network}
            self.settings = {**self.settings, DISCRIMINATOR: self._gan.settings}
            # Choice: a whole micro-batch of real images, each with a condition; the student drafts from the first ones.
            self.drafts_per_condition = 1
        self._monitor = (
            None
            if config.monitor is None
            else Monitor(config.monitor, config.objective, self._teacher, config.teacher, self._lift, config.lift)
        )

    def phases(self, step: int) -> Sequence[str]:
        return [STUDENT] if self._gan is None else self._gan.phases(step)

    def prepare(
        self,
        phase: str,
        batches: Sequence[Batch],
        forward: Mapping[str, Forward],
        generators: Sequence[torch.Generator],
        step: int,
    ) -> None:
        """Accumulated micro-batches are one drift problem: solved here, pulled back chunk by chunk in `loss`."""
        if phase != STUDENT:
            return
        self._chunks = first_pass(
            forward[phase],
            self._teacher,
            self._lift,
            [self._conditions(batch) for batch in batches],
            self._config.objective,
            progress=step / self._steps,
            generators=[with_drafts(one, self._config.drafts_per_condition) for one in generators],
            gather=self._gather,
            by=self._comparison,
        )

    def _conditions(self, batch: Batch) -> Condition:
        given = len(batch.condition) * self.drafts_per_condition // self._config.drafts_per_condition
        return self._teacher.condition(batch.condition[:given]).repeat_interleave(self._config.drafts_per_condition)

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        if self._gan is not None:
            self._gan.check(batch)
            if phase == DISCRIMINATOR:
                return self._gan.discriminator_loss(batch, self.networks[STUDENT], forward[phase], generator)
        parts, objective = (forward[phase], self._teacher, self._lift), self._config.objective
        with_drafts(generator, self._config.drafts_per_condition)
        if self._chunks:
            result = second_pass(*parts, self._chunks.pop(0), objective, generator=generator)
        else:
            result = fixed_point_loss(
                *parts,
                self._conditions(batch),
                objective,
                progress=step / self._steps,
                generator=generator,
                gather=self._gather,
                by=self._comparison,
            )
        report = self._report(result)
        if self._gan is None or DISCRIMINATOR not in forward:
            return result.loss, report
        loss, numbers = self._gan.student_loss(result.loss, result.images, forward[DISCRIMINATOR], generator)
        return loss, report | numbers

    def _report(self, result: FixedPointLoss) -> Report:
        report = {"loss": result.loss.item()}
        report |= self._comparison.distance.report(result.blocks, self._block_names())
        report["entropy"] = result.entropy.item()
        refinement = {"changed": result.changed, "mask_ratio": result.mask_ratio, "guidance": result.guidance}
        return report | {name: value.item() for name, value in refinement.items() if value is not None}

    def _block_names(self) -> list[str]:
        """One for each map; further spaces say which one they are."""
        first, *others = self._config.lift.spaces
        return first.maps + [f"{space.label}/{name}" for space in others for name in space.maps]

    def is_monitored(self, step: int) -> bool:
        return self._monitor is not None and self._monitor.is_due(step, self._steps)

    def monitor(self, averaged: Mapping[str, nn.Module], cache: Path) -> Report:
        assert self._monitor is not None
        return self._monitor.measure(averaged[STUDENT], cache)

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        return self._product.grid(averaged[STUDENT], generator)

    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        return {}  # images are judged by fpd-eval, with networks that are not part of the loss

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        self._product.export(folder, averaged[STUDENT], card)
