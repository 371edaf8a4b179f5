"""A teacher at any number of steps."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Guidance, Steps
from fpd_core.sampling import Sampler, network_evaluations, sample
from fpd_core.teachers import Teacher
from fpd_eval.runtime.cache import hash_json, hash_tensors
from fpd_eval.systems.kind import SystemKind, open_teacher
from fpd_eval.systems.system import GeneratingSystem, Role, System


class TeacherKind(SystemKind):
    """A frozen teacher decoding in `steps` steps."""

    kind: Literal["teacher"] = "teacher"
    teacher: str | dict[str, Any] = Field(description="Family name, weight folder, or the family's own section.")
    steps: Steps
    sampler: Sampler = "confidence"
    guidance_scale: Guidance | None = Field(None, description="By default the family's. 1 is off.")

    def load(self, device: torch.device) -> System:
        teacher = open_teacher(self.teacher, device)
        return TeacherSystem(
            teacher, steps=self.steps, sampler=self.sampler, guidance_scale=self.guidance_scale, name=self.name
        )


class TeacherSystem(GeneratingSystem):
    """A teacher decoding in `steps` steps.

    Args:
        guidance_scale: 1 is no guidance, None the family's own.

    Raises:
        ValueError: `steps` is not positive or more than the teacher has tokens.
    """

    role: Role = "teacher"

    def __init__(
        self, teacher: Teacher, *, steps: int, sampler: Sampler, guidance_scale: float | None, name: str = "teacher"
    ) -> None:
        if not 1 <= steps <= teacher.seq_len:
            raise ValueError(f"steps must be between 1 and {teacher.seq_len}, the teacher's tokens; got {steps}")
        self.name, self.steps, self.num_classes = name, steps, teacher.num_classes
        self._guidance_scale = teacher.sampler.guidance_scale if guidance_scale is None else guidance_scale
        options = teacher.sampler.model_copy(update={"guidance_scale": self._guidance_scale})
        self.network_evaluations = network_evaluations(steps, options)
        self._teacher, self._sampler = teacher, sampler
        self.settings = {"sampler": sampler, **options.model_dump(mode="json", exclude_none=True)}
        self.fingerprint = hash_json(["teacher", hash_tensors(teacher.state_dict()), steps, self.settings])

    @torch.no_grad()
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        device = self._teacher.device
        condition = self._teacher.condition(condition).to(device)
        tokens = sample(
            self._teacher,
            condition,
            self.steps,
            self._sampler,
            guidance_scale=self._guidance_scale,
            generator=torch.Generator(device).manual_seed(seed),
        )
        return self._teacher.decode(self._teacher.codebook[tokens], condition)
