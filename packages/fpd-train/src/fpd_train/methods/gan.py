"""The optional adversarial term of Fixed-Point Distillation: a discriminator beside the student.

The only part of the method that sees real images. The mathematics is `fpd_core.discriminator`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.conditioning import Condition
from fpd_core.config import Config, Flag, Number, Share, Weight, Whole
from fpd_core.discriminator import (
    BranchConfig,
    DeitBranch,
    Discriminator,
    EfficientNetBranch,
    Features,
    augmented,
    discriminator_loss,
    generator_loss,
    joint_loss,
    share_called_real,
)
from fpd_core.objective import ObjectiveConfig, draft_embeddings, draw_draft
from fpd_core.teachers.teacher import Teacher
from fpd_core.weights import RequiredFile
from fpd_train.batch import Batch
from fpd_train.engine_config import OptimizerConfig
from fpd_train.methods.interface import Forward, NetworkSettings, Parts, Report
from fpd_train.methods.real_tokens import Tokenizes, check_encoder
from fpd_train.methods.student import STUDENT

DISCRIMINATOR = "discriminator"
StepNumber = Annotated[Whole, Field(ge=0, le=10**9)]


class DiscriminatorOptimizer(OptimizerConfig):
    """Adam as for StyleGAN-XL's discriminator, at the rate of its small configuration."""

    lr: Number = Field(2e-4, gt=0, le=1, description="Peak learning rate.")
    betas: tuple[Share, Share] = Field((0.0, 0.99), description="Decay of Adam's two averages, per step.")
    warmup_steps: Whole = Field(0, ge=0, le=10**6, description="Linear warm-up, in optimizer steps.")
    clip: Number = Field(0.0, ge=0, le=1e6, description="Global gradient norm limit; 0 switches clipping off.")


class GanConfig(Config):
    """The discriminator and its weight λ."""

    branches: tuple[BranchConfig, ...] = Field(
        (DeitBranch(), EfficientNetBranch()), min_length=1, max_length=2, description="Frozen feature networks."
    )
    weight: Weight | None = Field(None, description="λ of the generator's loss; null: by `gradient_ratio`.")
    gradient_ratio: Number = Field(
        0.1, gt=0, le=100, description="λ |∇L_gan| in units of |∇L_drift|, both at the decoded images of a batch."
    )
    start_step: StepNumber = Field(1000, description="Steps of drift alone.")
    discriminator_steps: StepNumber = Field(500, description="Steps of the discriminator alone that follow.")
    augment: Flag = Field(True, description="Differentiable augmentation of real and generated images.")
    real_through_tokenizer: Flag = Field(
        False, description="Encode, quantise and decode real images: no signature of the decoder tells them apart."
    )
    optimizer: DiscriminatorOptimizer = Field(DiscriminatorOptimizer(), description="The discriminator's own.")

    def required_files(self) -> list[RequiredFile]:
        """Published files the discriminator opens."""
        return [file for branch in self.branches for file in branch.required_files()]


class Gan:
    """The discriminator's network and frozen features, its loss, and what it adds to the student's.

    Raises:
        ValueError: real images are to pass the tokenizer, and the teacher's family has no encoder.
    """

    def __init__(self, config: GanConfig, objective: ObjectiveConfig, teacher: Teacher, parts: Parts) -> None:
        if config.real_through_tokenizer:
            check_encoder(teacher, "gan.real_through_tokenizer")
        self._config, self._objective, self._teacher = config, objective, teacher
        self._gather = parts.world > 1
        self._features = Features(config.branches, teacher.image_size).to(parts.device)
        self.network: nn.Module = Discriminator(self._features.taps).to(parts.device)
        # Spectral and batch norm want full precision, whatever the student runs in.
        self.settings = NetworkSettings(config.optimizer, precision="float32")

    def phases(self, step: int) -> Sequence[str]:
        """Drift alone, then the discriminator alone, then both."""
        if step < self._config.start_step:
            return [STUDENT]
        if step < self._config.start_step + self._config.discriminator_steps:
            return [DISCRIMINATOR]
        return [STUDENT, DISCRIMINATOR]

    def student_loss(
        self, drift: Tensor, images: Tensor, discriminator: Forward, generator: torch.Generator
    ) -> tuple[Tensor, Report]:
        """L_drift + λ L_gan of the decoded drafts `images`."""
        result = joint_loss(
            drift,
            images,
            lambda leaf: generator_loss(self._logits(leaf, discriminator, generator)),
            weight=self._config.weight,
            gradient_ratio=self._config.gradient_ratio,
            gather=self._gather,
        )
        numbers = {"loss_gan": result.gan, "gan_weight": result.weight, "gan_ratio": result.ratio}
        return result.loss, {name: value.item() for name, value in numbers.items()}

    def discriminator_loss(
        self, batch: Batch, student: Forward, discriminator: Forward, generator: torch.Generator
    ) -> tuple[Tensor, Report]:
        """Hinge of fresh drafts, one per condition of the batch, against its images."""
        condition = self._teacher.condition(batch.condition)
        with torch.no_grad():
            fake = self._drafts(student, condition, generator)
            real = self._real(batch, condition)
        fake_logits = self._logits(fake, discriminator, generator)
        real_logits = self._logits(real, discriminator, generator)
        loss = discriminator_loss(fake_logits, real_logits)
        right = {"d_fake": 1 - share_called_real(fake_logits), "d_real": share_called_real(real_logits)}
        return loss, {"loss_d": loss.item()} | {name: share.item() for name, share in right.items()}

    def check(self, batch: Batch) -> None:
        """Raises ValueError: the batch has no images, or they have another size than the student's."""
        if batch.images is None:
            raise ValueError("the adversarial term compares with real images, and the data brings none")
        side = self._teacher.image_size
        if batch.images.shape[1:] != (3, side, side):
            height, width = batch.images.shape[-2:]
            raise ValueError(
                f"the real images are {width}x{height} pixels, the student draws {side}x{side}; "
                "the adversarial term needs shards of that size"
            )

    def _drafts(self, student: Forward, condition: Condition, generator: torch.Generator) -> Tensor:
        logits, draft = draw_draft(student, self._teacher, condition, self._objective, generator)
        return self._teacher.decode(draft_embeddings(logits, draft, self._teacher, self._objective), condition)

    def _real(self, batch: Batch, condition: Condition) -> Tensor:
        """The batch's images as the discriminator sees them."""
        assert batch.images is not None
        if not self._config.real_through_tokenizer:
            return batch.images
        assert isinstance(self._teacher, Tokenizes)
        return self._teacher.decode(self._teacher.codebook[self._teacher.tokenize(batch.images)], condition)

    def _logits(self, images: Tensor, discriminator: Forward, generator: torch.Generator) -> list[Tensor]:
        change = partial(augmented, generator=generator) if self._config.augment else _unchanged
        logits: list[Tensor] = discriminator(self._features(images, change))
        return logits


def _unchanged(images: Tensor) -> Tensor:
    return images
