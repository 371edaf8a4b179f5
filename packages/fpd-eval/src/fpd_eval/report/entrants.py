"""Who takes part in a comparison: systems opened, and refused where they do not fit together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator

from fpd_core import Generator, load_generator
from fpd_core.config import Config, Guidance, Name, Steps
from fpd_core.places import beside
from fpd_core.sampling import Sampler
from fpd_core.teachers import Teacher, teacher_config
from fpd_eval.systems import SystemKind
from fpd_eval.systems.kind import open_teacher
from fpd_eval.systems.student import StudentSystem
from fpd_eval.systems.system import System
from fpd_eval.systems.teacher import GUIDANCE, TeacherSystem

UNTRAINED = "untrained"


class Candidate(Config):
    """Student checkpoints of one recipe, one per training seed, and the name they have in the table."""

    name: Name = Field(description="In the table.")
    folders: tuple[Path, ...] = Field(min_length=1, description="One exported student per training seed.")
    beside: Path = Field(Path(), description="Where its training run and the report lie.")


class SystemFiles(Config):
    """One system, or the training seeds of one recipe under a name of its own."""

    files: tuple[Path, ...] = Field(min_length=1, description="JSON files of `system_kinds`, one per seed.")
    name: Name | None = Field(None, description="In place of that in the file.")


class Comparison(Config):
    """Which systems take part."""

    students: tuple[Candidate, ...] = Field((), description="Each brings its teacher and the untrained one-step use.")
    systems: tuple[SystemFiles, ...] = Field((), description="JSON files of `system_kinds`.")
    geneval: tuple[tuple[Name, tuple[Path, ...]], ...] = Field(
        (), description="(system's name, its results.jsonl, one per training seed)."
    )
    steps: tuple[Steps, ...] = Field((1, 2, 4, 8, 16), description="Of the students' teacher.")
    sampler: Sampler | None = Field(None, description="Of the teacher; by default its family's.")
    guidance_scale: Guidance | None = Field(None, description="Of the teacher; by default its family's. 1 is off.")
    pairs: tuple[tuple[Name, Name], ...] = Field((), description="Rows that verdicts compare; by default every two.")
    teacher: str | None = Field(None, description="Family name or weight folder; by default the first student's.")

    @model_validator(mode="after")
    def _distinct(self) -> "Comparison":
        if not (self.students or self.systems or self.geneval):
            raise ValueError("name what to compare with --ckpt, --systems or --geneval")
        if not self.students and self.model_fields_set & {"steps", "sampler", "guidance_scale", "teacher"}:
            raise ValueError(
                "--steps, --teacher, --sampler and --guidance-scale belong to the teacher of --ckpt; a teacher among "
                "the --systems has its own in its file"
            )
        for what, values in (
            ("step count", self.steps),
            ("student name", [student.name for student in self.students]),
            ("GenEval of", [name for name, _ in self.geneval]),
            *(("student folder", list(student.folders)) for student in self.students),
            *(("system file", list(system.files)) for system in self.systems if system.name),
            *(("GenEval result", list(files)) for _, files in self.geneval),
        ):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                shown = repr(repeated[0]) if isinstance(repeated[0], int | str) else repeated[0]
                raise ValueError(f"{what} {shown} is given twice")
        reserved = {"teacher", UNTRAINED} & {student.name for student in self.students}
        if reserved:
            raise ValueError(f"{reserved.pop()!r} names another row of the table; name the student differently")
        return self


@dataclass(frozen=True)
class Entrant:
    """A loaded system, once per training seed, its name in the published tables and the note of its file."""

    systems: Sequence[System]
    published_as: str | None = None
    note: str = ""

    @property
    def system(self) -> System:
        return self.systems[0]


def entrants(
    comparison: Comparison, kinds: Sequence[Sequence[SystemKind]], *, num_classes: int | None, device: str = "cpu"
) -> list[Entrant]:
    """Load the systems of --ckpt, then those of the files, in their order.

    Args:
        kinds: of the files; several are the training seeds of one recipe.
        num_classes: of the protocol; None takes that of the systems.

    Raises:
        CheckpointError: weights are absent or damaged.
        ValueError: the conditions of a system do not fit the protocol or the other systems, or two rows have one name.
    """
    for seeds in kinds:
        if any(kind.needs_prompts for kind in seeds):
            raise ValueError(_prompts_only(seeds[0].name))
    found = [Entrant(seeds) for seeds in systems(comparison, num_classes=num_classes, device=device)]
    found += [
        Entrant([kind.load(torch.device(device)) for kind in seeds], seeds[0].published_as, seeds[0].note)
        for seeds in kinds
    ]
    wanted = num_classes or next((one.system.num_classes for one in found), None)
    for system in (system for one in found for system in one.systems):
        _require_fit(system, wanted)
    _require_names([one.system for one in found])
    return found


def _require_fit(system: System, num_classes: int | None) -> None:
    if system.is_finished:
        return
    if system.num_classes is None:
        raise ValueError(_prompts_only(system.name))
    if system.num_classes != num_classes:
        raise ValueError(f"{system.name} knows {system.num_classes} classes, the protocol has {num_classes}")


def _prompts_only(name: str) -> str:
    return (
        f"{name} makes images of prompts, the protocol shows classes; score it with fpd-eval geneval and compare with "
        f"--geneval '{name}=.../results.jsonl'"
    )


def _require_names(measured: Sequence[System]) -> None:
    """One name is one system; a teacher may stand at several step counts, as one curve."""
    rows = Counter((system.name, system.steps if system.role == "teacher" else None) for system in measured)
    repeated = [name for (name, _), count in rows.items() if count > 1]
    shared = {name for name, steps in rows if steps is None} & {name for name, steps in rows if steps is not None}
    if repeated or shared:
        raise ValueError(f"two systems are called {[*repeated, *shared][0]!r}; give each its own name")


def systems(comparison: Comparison, *, num_classes: int | None, device: str = "cpu") -> list[list[System]]:
    """Systems of --ckpt by row: the teacher by rising step count, the untrained one-step teacher, the students, each
    with its training seeds.

    Raises:
        CheckpointError: a weight folder is absent or damaged.
        ValueError: unknown teacher or sampler, impossible step count, students of different teachers, or a teacher
            whose classes are not those of the protocol.
    """
    if not comparison.students:
        return []
    students = [[load_generator(folder) for folder in candidate.folders] for candidate in comparison.students]
    teacher = _teacher(comparison, students, torch.device(device))
    if teacher.num_classes is None:
        raise ValueError(_prompts_only("the teacher of --ckpt"))
    if num_classes not in (None, teacher.num_classes):
        raise ValueError(f"the teacher knows {teacher.num_classes} classes, the protocol has {num_classes}")
    changed = {} if comparison.guidance_scale is None else {GUIDANCE: comparison.guidance_scale}
    sampler = comparison.sampler
    untrained = StudentSystem(UNTRAINED, Generator.untrained(teacher, students[0][0].generation), role="untrained")
    names = [candidate.name for candidate in comparison.students]
    teachers: list[list[System]] = [
        [TeacherSystem(teacher, steps=n, sampler=sampler, changed=changed)] for n in sorted(comparison.steps)
    ]
    distilled: list[list[System]] = [
        [StudentSystem(name, one.to(device)) for one in seeds] for name, seeds in zip(names, students, strict=True)
    ]
    return [*teachers, [untrained], *distilled]


def _teacher(comparison: Comparison, students: Sequence[Sequence[Generator]], device: torch.device) -> Teacher:
    if comparison.teacher is not None:
        return open_teacher(comparison.teacher, device)
    _require_one_teacher(comparison, students)
    return open_teacher(beside(students[0][0].teacher_config, comparison.students[0].folders[0]), device)


def _decisive(student: Generator) -> dict[str, Any]:
    """The teacher's section with today's defaults for fields that are newer, without what only saves time."""
    return teacher_config(student.teacher_config).model_dump(exclude={"caption_cache"})


def _require_one_teacher(comparison: Comparison, students: Sequence[Sequence[Generator]]) -> None:
    folders = [folder for candidate in comparison.students for folder in candidate.folders]
    first, *others = (_decisive(student) for seeds in students for student in seeds)
    for folder, other in zip(folders[1:], others, strict=True):
        if other != first:
            raise ValueError(
                f"{folder} and {folders[0]} have different teachers; "
                "compare them separately, or name the teacher with --teacher"
            )
