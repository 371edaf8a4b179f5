"""SDTT as a method (arXiv 2410.21035): rounds in which the student learns two teacher steps as one and then becomes the
teacher. `fpd_core.rivals.sdtt` has the mathematics; this is one update of the released program on real tokens.

Choices: a class-conditional first teacher is guided inside its log-probabilities; later ones are students, in which
that guidance is already, so they are not guided again. The step times are t - iδ.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.config import Guidance, Size, Steps, Whole
from fpd_core.generator import GenerationConfig
from fpd_core.rivals import sdtt
from fpd_train.batch import Batch
from fpd_train.methods.interface import Forward, Parts, Report
from fpd_train.methods.real_tokens import real_tokens
from fpd_train.methods.rival import Rival, RivalConfig, uniform
from fpd_train.methods.student import STUDENT, trainable_copy

TEACHER = "teacher"


class SdttConfig(RivalConfig):
    """Self-distillation through time (arXiv 2410.21035). A round makes a student of half its teacher's steps."""

    name: Literal["sdtt"] = "sdtt"
    first_steps: Size = Field(16, description="Steps 1/δ of the first round's teacher.")
    last_steps: Annotated[Whole, Field(ge=2, le=2**16)] = Field(
        2, description="No round has a teacher of fewer steps: 2 ends at a one-step student."
    )
    teacher_steps: Annotated[Whole, Field(ge=2, le=64)] = Field(2, description="n, steps that become one.")
    updates: Steps = Field(10_000, description="Optimizer steps of each round.")
    guidance_scale: Guidance = Field(2.0, description="g of the first round's teacher.")
    divergence: Literal["kl-bwd", "kl-fwd"] = Field("kl-bwd", description="KL(student || target), or the other way.")
    sampler: Literal["ancestral", "confidence"] = Field("ancestral", description="How exported students are sampled.")

    @property
    def image_use(self) -> str:
        """What the run needs real images for."""
        return "method sdtt learns from real images"


class SdttMethod(Rival):
    """The student, and the teacher of the round."""

    def __init__(self, config: SdttConfig, parts: Parts) -> None:
        generation = GenerationConfig(
            init_mask_ratio=1.0,
            temperature=config.sampling_temperature,
            steps=max(1, config.first_steps // config.teacher_steps),
            sampler=config.sampler,
        )
        super().__init__(config, parts, generation, needs_images=True)
        self._config = config
        self._plan = sdtt.rounds(config.first_steps, config.last_steps, config.teacher_steps, config.updates)
        if not self._plan:
            raise ValueError(f"no round has {config.last_steps} or more steps: first_steps is {config.first_steps}")
        if parts.steps > len(self._plan) * config.updates:
            raise ValueError(
                f"steps {parts.steps} is above the {len(self._plan)} rounds of {config.updates} updates each"
            )
        self._last = parts.steps
        teacher = trainable_copy(self.teacher.network, config.frozen).requires_grad_(False)
        self.remembered: Mapping[str, nn.Module] = {TEACHER: teacher}

    def _round(self, step: int) -> int:
        return step // self._config.updates

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        condition, clean, mask_id = self.condition(batch), real_tokens(self.teacher, batch), self.teacher.mask_id
        delta, guidance = self._plan[self._round(step)].dt, self._config.guidance_scale if self._round(step) == 0 else 1
        time = sdtt.stratified_times(float(uniform((1,), generator, clean)), len(clean)).to(clean.device)
        x_t = sdtt.corrupt(clean, time, uniform(clean.shape, generator, clean), mask_id)
        steps = sdtt.step_times(time, delta, self._config.teacher_steps)
        columns = self.teacher.codebook_size + 1
        target = sdtt.teacher_target(
            lambda x: self.teacher.guided_logits(x, condition, guidance, network=self.remembered[TEACHER]),
            x_t,
            steps,
            [uniform((*clean.shape, columns), generator, clean) for _ in steps],
            mask_id,
        )
        student = self.teacher.logits(x_t, condition, network=forward[STUDENT])
        log_student = sdtt.log_probabilities(student, x_t, mask_id)
        loss = sdtt.distil_loss(log_student, target.log_p, x_t == mask_id, self._config.divergence)
        return loss, {"loss": loss.item(), "delta": delta, "round": float(self._round(step))}

    def ends_round(self, done: int) -> bool:
        return done % self._config.updates == 0 and done < self._last

    def hand_over(self, masters: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The raw weights, not the averages, as in the program; the optimizer goes on."""
        self.remembered[TEACHER].load_state_dict(dict(masters[STUDENT]), strict=False)

    def export_round(self, done: int, output: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        steps = self._student_steps(done)
        self._export(output / f"{STUDENT}_{steps}_steps", averaged, card, steps)

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        self._export(folder, averaged, card, self._student_steps(self._last))

    def _student_steps(self, done: int) -> int:
        """Steps of the student after step `done`: n times fewer than its teacher's."""
        teacher = self._plan[self._round(done - 1)]
        return max(1, teacher.effective_steps // self._config.teacher_steps)

    def _export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str, steps: int) -> None:
        how = self.made.generation.model_copy(update={"steps": steps})
        replace(self.made, generation=how).export(folder, averaged[STUDENT], card)
