"""Where distillation by refinement would end: the teacher's own refinement, applied again and again (FPD, eq. 3).

From the teacher's own samples no student is in it: it tells before a training what π, g and passes can reach. From a
student's drafts it tells how far that student is from rest.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.checkpoints import WEIGHTS
from fpd_core.conditioning import Condition
from fpd_core.config import Location, Size, Steps, Temperature
from fpd_core.generator import Generator, load_generator
from fpd_core.guidance import RefinementGuidance
from fpd_core.hashing import hash_tensors
from fpd_core.objective import ObjectiveConfig, draw_target
from fpd_core.refine import RemaskConfig
from fpd_core.sampling import network_evaluations, sample
from fpd_core.teachers import Teacher
from fpd_eval.runtime.cache import hash_json
from fpd_eval.systems.kind import SystemKind, open_teacher, teacher_files
from fpd_eval.systems.system import GeneratingSystem, Role, System


class FixedPointKind(SystemKind):
    """Samples of the teacher, refined until only the refinement's own law is left."""

    kind: Literal["fixed_point"] = "fixed_point"
    teacher: str | dict[str, Any] = Field(description="Family name, weight folder, or the family's own section.")
    start: Location | None = Field(None, description="Exported student that draws the start; null: the sampler.")
    start_steps: Steps = Field(8, description="Forward passes of the sampler, where it draws the start.")
    refinements: Size = Field(16, description="How often the samples are refined, each time at an r of their own.")
    remask: RemaskConfig = Field(RemaskConfig(), description="π and passes, as in `method.objective.remask`.")
    guidance_scale: RefinementGuidance | None = Field(None, description="As `method.objective.guidance_scale`.")
    temperature: Temperature | None = Field(None, description="As `method.objective.temperature`.")

    def load(self, device: torch.device) -> System:
        student = None if self.start is None else load_generator(self.start).to(device)
        return FixedPointSystem(self, open_teacher(self.teacher, device), student)

    def checkpoints(self) -> list[Path]:
        return teacher_files(self.teacher) + ([] if self.start is None else [Path(self.start) / WEIGHTS])


class FixedPointSystem(GeneratingSystem):
    """The start and `refinements` of it.

    Raises:
        ValueError: more start steps, or more passes, than the teacher has tokens to reveal; or a student of
            other tokens.
    """

    role: Role = "baseline"

    def __init__(self, config: FixedPointKind, teacher: Teacher, student: Generator | None = None) -> None:
        if student is None and config.start_steps > teacher.seq_len:
            raise ValueError(f"start_steps must be at most {teacher.seq_len}, the teacher's tokens")
        if student is not None and not _share_codes(student.model, teacher):
            raise ValueError(f"the student {config.start} draws other codes than the teacher's; they cannot be refined")
        config.remask.check_passes(teacher.seq_len)
        self.name, self.num_classes, self._config = config.name, teacher.num_classes, config
        self._teacher, self._student = teacher, student
        self._objective = ObjectiveConfig(
            remask=config.remask,
            refinements=config.refinements,
            guidance_scale=config.guidance_scale,
            temperature=config.temperature,
        )
        if student is not None:
            self.steps, self.network_evaluations = student.generation.steps, student.network_evaluations
            self.encoders = student.encoders
        else:
            sampler = teacher.sampler_options(teacher.default_sampler, {})
            self.steps, self.network_evaluations = config.start_steps, network_evaluations(config.start_steps, sampler)
        again = config.refinements * config.remask.passes
        guidance, _ = teacher.refinement(torch.ones(1), config.guidance_scale, config.temperature)
        self.steps += again
        self.network_evaluations += again * (2 if isinstance(guidance, Tensor) or guidance != 1 else 1)
        self.settings = config.model_dump(
            mode="json", exclude={"kind", "name", "note", "published_as", "teacher", "start"}
        )
        self.fingerprint = hash_json(["fixed point", hash_tensors(teacher.state_dict()), self.settings])
        if student is not None:
            how = student.generation.model_dump(mode="json")
            self.fingerprint = hash_json([self.fingerprint, hash_tensors(student.model.network.state_dict()), how])

    @torch.no_grad()
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        teacher, config = self._teacher, self._config
        generator = torch.Generator(teacher.device).manual_seed(seed)
        condition = teacher.condition(condition).to(teacher.device)
        if self._student is None:
            tokens = sample(teacher, condition, config.start_steps, generator=generator)
        else:
            tokens = self._student.tokens(condition, generator)
        # At the end of a run, where π may have moved to.
        tokens = draw_target(teacher, condition, tokens, self._objective, progress=1.0, generator=generator).tokens
        return teacher.decode(teacher.codebook[tokens], condition)


def _share_codes(one: Teacher, other: Teacher) -> bool:
    """A student is kept in half precision: its codebook may be rounded."""
    a, b = one.codebook, other.codebook
    return one.seq_len == other.seq_len and a.shape == b.shape and torch.allclose(a, b, rtol=1e-2, atol=1e-2)
