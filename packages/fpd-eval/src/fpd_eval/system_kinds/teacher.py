"""A teacher at any number of steps."""

from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from fpd_core.sampling import Sampler
from fpd_eval.system_kinds.kind import SystemKind, open_teacher
from fpd_eval.systems import System, TeacherSystem


class TeacherKind(SystemKind):
    """A frozen teacher decoding in `steps` steps."""

    kind: Literal["teacher"] = "teacher"
    teacher: str | dict[str, Any] = Field(description="Family name, weight folder, or the family's own section.")
    steps: PositiveInt
    sampler: Sampler = "confidence"
    guidance_scale: PositiveFloat | None = Field(None, description="By default the family's. 1 is off.")

    def load(self, device: torch.device) -> System:
        teacher = open_teacher(self.teacher, device)
        scale = teacher.sampler.guidance_scale if self.guidance_scale is None else self.guidance_scale
        system = TeacherSystem(teacher, steps=self.steps, sampler=self.sampler, guidance_scale=scale)
        system.name = self.name
        return system
