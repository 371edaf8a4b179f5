"""A comparison: every system under one protocol, with published values beside the measured ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fpd_core.config import nearest
from fpd_eval.bench.bench import Bench
from fpd_eval.bench.curves import Curve
from fpd_eval.bench.measure import conditions, measure, measure_reference, second_half
from fpd_eval.bench.rows import Results, Row
from fpd_eval.report.battery_table import with_held_out
from fpd_eval.report.entrants import Comparison, Entrant, SystemFiles
from fpd_eval.report.geneval_rows import Judged, geneval_row, require_one_detector, shown_prompts
from fpd_eval.report.printed import printed
from fpd_eval.report.seeds import geneval_over_seeds, over_seeds, verdicts
from fpd_eval.runtime.machine import this_machine
from fpd_eval.systems import SystemKind, read_system

Kinds = Sequence[SystemKind]  # of one row: several are training seeds of one recipe


def read_kinds(comparison: Comparison) -> tuple[list[Kinds], list[list[Judged]]]:
    """The systems of the files that are still to be measured, and everything that GenEval has judged, by row.

    A system with GenEval results is not opened: it understands prompts, and the protocols here show classes.

    Raises:
        ConfigError: a file is absent or damaged.
    """
    kinds = [_kinds(system) for system in comparison.systems]
    known = {seeds[0].name: seeds[0] for seeds in kinds}
    judged = [[_judged(name, path, known) for path in paths] for name, paths in comparison.geneval]
    return [seeds for seeds in kinds if seeds[0].name not in dict(comparison.geneval)], judged


def _kinds(system: SystemFiles) -> Kinds:
    found = [read_system(path) for path in system.files]
    return [kind.model_copy(update={"name": system.name}) for kind in found] if system.name else found


def _judged(name: str, results: Path, known: Mapping[str, SystemKind]) -> Judged:
    if name not in known:
        return Judged(name=name, results=results)
    kind = known[name]
    # Kinds without `steps` make their images in one.
    steps = kind.model_dump().get("steps", 1)
    return Judged(name=name, results=results, steps=steps, published_as=kind.published_as, note=kind.note)


def compare(
    measured: Sequence[Entrant],
    bench: Bench | None,
    *,
    judged: Sequence[Sequence[Judged]] = (),
    device: str = "cpu",
    curves: tuple[Curve, ...] = (),
    asked: Sequence[tuple[str, str]] = (),
) -> Results:
    """Measure every system on the bench, and read what GenEval has judged. Training seeds become one row.

    Args:
        bench: None where no system is to be measured.
        judged: by row, one per training seed.
        asked: rows that verdicts compare; by default every two.

    Raises:
        ValueError: a system made unusable images or features, or a file of GenEval results is damaged.
    """
    geneval = tuple(geneval_over_seeds([geneval_row(one) for one in seeds]) for seeds in judged)
    suites = sorted({row.suite for row in geneval})
    if len(suites) > 1:
        raise ValueError(f"the GenEval results are of the suites {' and '.join(suites)}, which cannot be compared")
    require_one_detector(geneval)
    known = [*(one.system.name for one in measured), *(row.name for row in geneval)]
    for name in (name for pair in asked for name in pair):
        if name not in known:
            raise nearest(name, known, "row of --pair")
    classes = next((one.system.num_classes for one in measured if one.system.num_classes), 1)
    rows: list[Row] = []
    real: Row | None = None
    for one in measured:
        assert bench is not None, "systems are measured on a bench"
        row = over_seeds([measure(system, bench, num_classes=classes) for system in one.systems])
        values = printed(row.values, one.published_as, steps=row.steps, protocol=bench.protocol, settings=row.settings)
        rows.append(row.model_copy(update={"published": values, "note": one.note}))
    if bench is not None and bench.protocol.battery:
        *rows, real = with_held_out([*rows, second_half(bench, classes)], bench.protocol.battery)
    return Results(
        protocol=None if bench is None else bench.protocol,
        machine=this_machine(torch.device(device)),
        reference=None if bench is None else measure_reference(bench),
        rows=(*rows, real) if real else tuple(rows),
        conditions=() if bench is None else conditions(bench, classes),
        geneval=geneval,
        prompts=shown_prompts(suites[0]) if geneval else (),
        verdicts=verdicts(rows, asked) + verdicts(geneval, asked),
        warnings=(*(bench.lacks if bench else ()), *_warnings(rows)),
        curves=curves,
    )


def _warnings(rows: Sequence[Row]) -> list[str]:
    """Each warning once, with the systems that it concerns unless it concerns all."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            found.setdefault(warning, []).append(row.name)
    return [
        warning if len(names) == len(rows) else f"{', '.join(dict.fromkeys(names))}: {warning}"
        for warning, names in found.items()
    ]
