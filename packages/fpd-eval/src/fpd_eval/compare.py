"""Which systems take part in a comparison, all measured under one protocol, with published values beside them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fpd_core import Generator, load_generator
from fpd_core.checkpoints import read_config
from fpd_core.config import Config
from fpd_core.sampling import Sampler
from fpd_core.teachers import Teacher, load_teacher
from fpd_eval.curves import Curve
from fpd_eval.evaluate import Bench, measure, reference
from fpd_eval.geneval.rows import Judged, geneval_row, shown_prompts
from fpd_eval.machine import this_machine
from fpd_eval.named_bench import NamedBench, measure_named
from fpd_eval.printed import printed
from fpd_eval.results import Results, Row
from fpd_eval.system_kinds import SystemKind, read_system
from fpd_eval.system_kinds.diffusion import DiffusersKind
from fpd_eval.system_kinds.folder import FolderSystem
from fpd_eval.systems import StudentSystem, System, TeacherSystem

UNTRAINED = "untrained"


class Candidate(Config):
    """A student checkpoint and the name it has in the table."""

    name: str = Field(min_length=1)
    folder: Path


class Comparison(Config):
    """Which systems take part."""

    students: tuple[Candidate, ...] = Field((), description="Each brings its teacher and the untrained one-step use.")
    systems: tuple[Path, ...] = Field((), description="JSON files of `system_kinds`.")
    geneval: tuple[tuple[str, Path], ...] = Field((), description="(system's name, its results.jsonl).")
    steps: tuple[PositiveInt, ...] = Field((1, 2, 4, 8, 16), description="Of the students' teacher.")
    sampler: Sampler = "confidence"
    guidance_scale: PositiveFloat | None = Field(None, description="Of the teacher; by default its family's. 1 is off.")
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
        ):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                raise ValueError(f"{what} {repeated[0]!r} is given twice")
        reserved = {"teacher", UNTRAINED} & {student.name for student in self.students}
        if reserved:
            raise ValueError(f"{reserved.pop()!r} names another row of the table; name the student differently")
        return self


@dataclass(frozen=True)
class Entrant:
    """A loaded system, its name in the published tables and the note of its file."""

    system: System
    published_as: str | None = None
    note: str = ""


def entrants(
    comparison: Comparison, kinds: Sequence[SystemKind], *, num_classes: int | None, device: str = "cpu"
) -> list[Entrant]:
    """Load the systems of --ckpt, then those of the files, in their order.

    Args:
        kinds: of the files.
        num_classes: of the protocol; None takes that of the systems.

    Raises:
        CheckpointError: weights are absent or damaged.
        ValueError: the conditions of a system do not fit the protocol or the other systems, or two rows have one name.
    """
    for kind in kinds:
        if isinstance(kind, DiffusersKind):
            raise ValueError(_prompts_only(kind.name))
    found = [Entrant(system) for system in systems(comparison, num_classes=num_classes, device=device)]
    found += [Entrant(kind.load(torch.device(device)), kind.published_as, kind.note) for kind in kinds]
    wanted = num_classes or next((system_classes(one.system) for one in found), None)
    for one in found:
        _require_fit(one.system, wanted)
    _require_names([one.system for one in found])
    return found


def system_classes(system: System) -> int | None:
    """Number of classes that a system makes images of; None for a folder, which is finished, and for prompts."""
    return system.num_classes if isinstance(system, StudentSystem | TeacherSystem) else None


def _require_fit(system: System, num_classes: int | None) -> None:
    if isinstance(system, FolderSystem):
        return
    found = system_classes(system)
    if found is None:
        raise ValueError(_prompts_only(system.name))
    if found != num_classes:
        raise ValueError(f"{system.name} knows {found} classes, the protocol has {num_classes}")


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


def systems(comparison: Comparison, *, num_classes: int | None, device: str = "cpu") -> list[System]:
    """Systems of --ckpt: the teacher by rising step count, the untrained one-step teacher, the students.

    Raises:
        CheckpointError: a weight folder is absent or damaged.
        ValueError: unknown teacher or sampler, impossible step count, students of different teachers, or a teacher
            whose classes are not those of the protocol.
    """
    if not comparison.students:
        return []
    students = [load_generator(candidate.folder) for candidate in comparison.students]
    first = students[0]
    teacher = _teacher(comparison, students).to(device)
    if teacher.num_classes is None:
        raise ValueError(_prompts_only("the teacher of --ckpt"))
    if num_classes not in (None, teacher.num_classes):
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


def read_kinds(comparison: Comparison) -> tuple[list[SystemKind], list[Judged]]:
    """The systems of the files that are still to be measured, and everything that GenEval has judged.

    A system with GenEval results is not opened: it understands prompts, and the protocols here show classes.

    Raises:
        ConfigError: a file is absent or damaged.
    """
    kinds = [read_system(path) for path in comparison.systems]
    known = {kind.name: kind for kind in kinds}
    judged = [_judged(name, path, known) for name, path in comparison.geneval]
    return [kind for kind in kinds if kind.name not in dict(comparison.geneval)], judged


def _judged(name: str, results: Path, known: Mapping[str, SystemKind]) -> Judged:
    if name not in known:
        return Judged(name=name, results=results)
    kind = known[name]
    # Kinds without `steps` make their images in one.
    steps = kind.model_dump().get("steps", 1)
    return Judged(name=name, results=results, steps=steps, published_as=kind.published_as, note=kind.note)


def compare(
    measured: Sequence[Entrant],
    bench: Bench | NamedBench | None,
    *,
    judged: Sequence[Judged] = (),
    device: str = "cpu",
    curves: tuple[Curve, ...] = (),
) -> Results:
    """Measure every system on the bench, and read what GenEval has judged.

    Args:
        bench: None where no system is to be measured.

    Raises:
        ValueError: a system made unusable images or features, or a file of GenEval results is damaged.
    """
    rows, warnings = list[Row](), list[str](bench.lacks if isinstance(bench, NamedBench) else ())
    geneval = tuple(geneval_row(one) for one in judged)
    for one in measured:
        assert bench is not None, "systems are measured on a bench"
        row, said = (measure(one.system, bench), ()) if isinstance(bench, Bench) else measure_named(one.system, bench)
        rows.append(row.model_copy(update=_beside(one, row, bench)))
        warnings += [f"{row.name}: {warning}" for warning in said]
    return Results(
        protocol=None if bench is None else bench.protocol,
        machine=this_machine(torch.device(device)),
        reference=reference(bench) if isinstance(bench, Bench) else None,
        rows=tuple(rows),
        conditions=() if bench is None else bench.conditions,
        geneval=geneval,
        prompts=shown_prompts() if geneval else (),
        warnings=tuple(dict.fromkeys(warnings)),
        curves=curves,
    )


def _beside(entrant: Entrant, row: Row, bench: Bench | NamedBench) -> dict[str, object]:
    values = printed(row.values, entrant.published_as, steps=row.steps, protocol=bench.protocol, settings=row.settings)
    return {"published": values, "note": entrant.note}
