"""Text-conditional systems as painters: an exported student, and the teacher it was distilled from in N steps."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpd_core import Generator, load_generator
from fpd_core.sampling import Sampler
from fpd_core.teachers import Teacher, load_teacher
from fpd_eval.geneval.runner import Painter
from fpd_eval.systems import StudentSystem, System, TeacherSystem


def painters(
    folder: Path,
    *,
    teacher_steps: Sequence[int] = (),
    sampler: Sampler = "confidence",
    guidance_scale: float | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[str, Painter]]:
    """(name, painter) of the student, then of its teacher at each step count, opened one after the other.

    Raises:
        CheckpointError: a weight folder is absent or damaged.
        ValueError: it generates from classes, or a step count is impossible.
    """
    student = load_generator(folder).to(device)
    if student.model.num_classes is not None:
        raise ValueError(f"{folder} generates from class labels; GenEval needs a text-conditional generator")
    yield "student", student_painter(student)
    if teacher_steps:
        teacher = load_teacher(student.teacher_config).to(device)
        scale = teacher.sampler.guidance_scale if guidance_scale is None else guidance_scale
        for steps in sorted(set(teacher_steps)):
            system = TeacherSystem(teacher, steps=steps, sampler=sampler, guidance_scale=scale)
            yield f"teacher-{steps}", teacher_painter(teacher, system)


def student_painter(generator: Generator) -> Painter:
    """Prompts in one forward pass."""

    def paint(prompts: Sequence[str], seed: int) -> Tensor:
        return generator.generate(list(prompts), seed=seed)

    return Painter(_identity(StudentSystem("student", generator)), paint)


def teacher_painter(teacher: Teacher, system: TeacherSystem) -> Painter:
    """Prompts in the system's number of steps."""

    def paint(prompts: Sequence[str], seed: int) -> Tensor:
        condition: Any = teacher.condition(list(prompts))
        return system.images(condition, seed=seed).clamp(0, 1)

    return Painter(_identity(system), paint)


def _identity(system: System) -> dict[str, object]:
    return {"system": system.name, "steps": system.steps, "weights": system.fingerprint, **system.settings}
