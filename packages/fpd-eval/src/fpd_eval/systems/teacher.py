"""A teacher at any number of steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Guidance, Steps, nearest
from fpd_core.hashing import hash_tensors
from fpd_core.sampling import Sampler, network_evaluations, sample
from fpd_core.teachers import SamplerConfig, Teacher
from fpd_eval.runtime.cache import hash_json
from fpd_eval.systems.kind import SystemKind, open_teacher, teacher_files
from fpd_eval.systems.system import GeneratingSystem, Role, System

GUIDANCE = "guidance_scale"


class TeacherKind(SystemKind):
    """A frozen teacher decoding in `steps` steps."""

    kind: Literal["teacher"] = "teacher"
    teacher: str | dict[str, Any] = Field(description="Family name, weight folder, or the family's own section.")
    steps: Steps = Field(description="Forward passes, without those of guidance.")
    sampler: Sampler | None = Field(None, description="By default the family's.")
    guidance_scale: Guidance | None = Field(None, description="By default the family's. 1 is off.")
    sampling: dict[str, Any] = Field({}, description="Other fields of `SamplerConfig`, such as guidance_start.")

    @field_validator("sampling")
    @classmethod
    def _others(cls, sampling: dict[str, Any]) -> dict[str, Any]:
        known = [name for name in SamplerConfig.model_fields if name != GUIDANCE]
        for name in sampling:
            if name == GUIDANCE:
                raise ValueError("guidance_scale has its own place; sampling holds the other fields")
            if name not in known:
                raise nearest(name, known, "sampler option")
        return sampling

    def load(self, device: torch.device) -> System:
        teacher = open_teacher(self.teacher, device)
        changed = self.sampling | ({} if self.guidance_scale is None else {GUIDANCE: self.guidance_scale})
        return TeacherSystem(teacher, steps=self.steps, sampler=self.sampler, changed=changed, name=self.name)

    def checkpoints(self) -> list[Path]:
        return teacher_files(self.teacher)


class TeacherSystem(GeneratingSystem):
    """A teacher decoding in `steps` steps.

    Args:
        changed: fields of the family's `SamplerConfig`.

    Raises:
        ConfigError: an unknown field or a wrong value.
        ValueError: `steps` is not positive or more than the teacher has tokens.
    """

    role: Role = "teacher"

    def __init__(
        self,
        teacher: Teacher,
        *,
        steps: int,
        sampler: Sampler | None,
        changed: Mapping[str, Any],
        name: str = "teacher",
    ) -> None:
        if not 1 <= steps <= teacher.seq_len:
            raise ValueError(f"steps must be between 1 and {teacher.seq_len}, the teacher's tokens; got {steps}")
        self.name, self.steps, self.num_classes = name, steps, teacher.num_classes
        sampler = sampler or teacher.default_sampler
        options = teacher.sampler_options(sampler, changed)
        self.network_evaluations = network_evaluations(steps, options)
        self._teacher, self._sampler, self._options = teacher, sampler, options
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
            generator=torch.Generator(device).manual_seed(seed),
            **self._options.model_dump(),
        )
        return self._teacher.decode(self._teacher.codebook[tokens], condition)
