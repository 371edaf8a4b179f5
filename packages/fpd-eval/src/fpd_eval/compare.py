"""The teacher at several step counts, its untrained one-step use, and students, all under one protocol."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fpd_core import Generator, load_generator
from fpd_core.checkpoints import read_config
from fpd_core.config import Config
from fpd_core.sampling import Sampler
from fpd_core.teachers import Teacher, load_teacher
from fpd_eval.curves import Curve
from fpd_eval.evaluate import Bench, measure, reference
from fpd_eval.machine import this_machine
from fpd_eval.results import Results
from fpd_eval.systems import StudentSystem, System, TeacherSystem

UNTRAINED = "untrained"


class Candidate(Config):
    """A student checkpoint and the name it has in the table."""

    name: str = Field(min_length=1)
    folder: Path


class Comparison(Config):
    """Which systems take part."""

    students: tuple[Candidate, ...] = Field(min_length=1)
    steps: tuple[PositiveInt, ...] = Field((1, 2, 4, 8, 16), description="Of the teacher.")
    sampler: Sampler = "confidence"
    guidance_scale: PositiveFloat | None = Field(None, description="Of the teacher; by default its family's. 1 is off.")
    teacher: str | None = Field(None, description="Family name or weight folder; by default the first student's.")

    @model_validator(mode="after")
    def _distinct(self) -> "Comparison":
        for what, values in (("step count", self.steps), ("student name", [s.name for s in self.students])):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                raise ValueError(f"{what} {repeated[0]!r} is given twice")
        reserved = {"teacher", UNTRAINED} & {student.name for student in self.students}
        if reserved:
            raise ValueError(f"{reserved.pop()!r} names another row of the table; name the student differently")
        return self


def systems(comparison: Comparison, *, num_classes: int, device: str = "cpu") -> list[System]:
    """Load every system: the teacher by rising step count, the untrained one-step teacher, the students.

    Raises:
        CheckpointError: a weight folder is absent or damaged.
        ValueError: unknown teacher or sampler, impossible step count, students of different teachers, or a teacher
            whose classes are not those of the protocol.
    """
    students = [load_generator(candidate.folder) for candidate in comparison.students]
    first = students[0]
    teacher = _teacher(comparison, students).to(device)
    if teacher.num_classes != num_classes:
        raise ValueError(f"the teacher knows {teacher.num_classes} classes, the protocol has {num_classes}")
    untrained = Generator.untrained(teacher, first.generation)
    scale = teacher.sampler.guidance_scale if comparison.guidance_scale is None else comparison.guidance_scale
    return [
        *(
            TeacherSystem(teacher, steps=steps, sampler=comparison.sampler, guidance_scale=scale)
            for steps in sorted(comparison.steps)
        ),
        StudentSystem(UNTRAINED, untrained, role="untrained"),
        *(
            StudentSystem(candidate.name, student.to(device))
            for candidate, student in zip(comparison.students, students, strict=True)
        ),
    ]


def _teacher(comparison: Comparison, students: Sequence[Generator]) -> Teacher:
    wanted = comparison.teacher
    if wanted is None:
        _require_one_teacher(comparison, students)
        return load_teacher(students[0].teacher_config)
    if Path(wanted).is_dir():
        architecture = read_config(Path(wanted)).get("architecture", {})
        return load_teacher({"name": architecture.get("name"), "path": wanted})
    return load_teacher(wanted)


def _require_one_teacher(comparison: Comparison, students: Sequence[Generator]) -> None:
    for candidate, student in zip(comparison.students, students, strict=True):
        if student.teacher_config != students[0].teacher_config:
            raise ValueError(
                f"{candidate.folder} and {comparison.students[0].folder} have different teachers; "
                "compare them separately, or name the teacher with --teacher"
            )


def compare(measured: Sequence[System], bench: Bench, *, curves: tuple[Curve, ...] = ()) -> Results:
    """Measure every system on the bench.

    Raises:
        ValueError: a system made unusable images or features.
    """
    return Results(
        protocol=bench.protocol,
        machine=this_machine(bench.device),
        reference=reference(bench),
        rows=tuple(measure(system, bench) for system in measured),
        curves=curves,
    )
