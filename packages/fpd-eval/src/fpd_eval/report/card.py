"""Measured numbers in the model card of the student they belong to: `--write-card` of compare, metrics and geneval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from fpd_core.card import CLASSES, TEXT, write_results
from fpd_eval.bench.bench import MetricResult
from fpd_eval.bench.rows import Results
from fpd_eval.geneval.outcome import Outcome
from fpd_eval.report.cells import cells
from fpd_eval.report.columns import COLUMNS
from fpd_eval.report.entrants import Candidate
from fpd_eval.report.tables import markdown_table, markdown_text


def write_compared(results: Results, students: Sequence[Candidate]) -> None:
    """Each student's row, and the whole table. Of several training seeds each folder gets its own numbers.

    Raises:
        CheckpointError: a card cannot be read.
    """
    protocol = results.protocol
    assert protocol is not None  # students were measured by one
    rows = {row.name: row for row in results.rows}
    table = f"{markdown_table(cells(results))}\n\n{markdown_text(protocol.sentence())}"
    for student in students:
        row = rows[student.name]
        how = {"num_images": protocol.num_images, "seed": protocol.seed, "steps": row.steps}
        for folder, values in zip(student.folders, row.seeds or [row.values], strict=True):
            found = _numbers(CLASSES, protocol.name, f"images by protocol {protocol.name}", how, values)
            write_results(folder, f"fpd-eval compare, protocol {protocol.name}", found, table)


def write_measured(result: MetricResult, folder: Path) -> None:
    """The numbers of `fpd-eval metrics`. Raises CheckpointError: the card cannot be read."""
    protocol = result.protocol
    how = {"num_images": result.num_images, "seed": protocol.seed, "steps": result.system.get("steps")}
    data = markdown_text(result.reference or f"images by protocol {protocol.name}")
    lines = [f"| {markdown_text(name)} | {value:.6g} |" for name, value in result.values.items()]
    said = (
        f"{result.num_images} images, seed {protocol.seed}, against {data}; follows {markdown_text(protocol.source)}."
    )
    table = "\n".join(["| metric | value |", "| --- | ---: |", *lines, "", said])
    found = _numbers(CLASSES, protocol.name, data, how, result.values)
    write_results(folder, f"fpd-eval metrics, protocol {protocol.name}", found, table)


def write_judged(outcomes: Sequence[Outcome], folder: Path) -> None:
    """GenEval of a student, which comes first, beside its teacher's. Raises CheckpointError: as above."""
    student = outcomes[0]
    tags = list(student.scores.tasks)
    head = ["system", *tags, "overall"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(tags) + 1)]
    for outcome in outcomes:
        values = _scores(outcome)
        texts = [f"{values[tag]:.3f}" if tag in values else "–" for tag in head[1:]]
        lines.append("| " + " | ".join([markdown_text(outcome.name), *texts]) + " |")
    scores = student.scores
    lines += ["", f"{scores.prompts} prompts, {student.samples} images each."]
    how = {"prompts": scores.prompts, "samples": student.samples}
    name = "GenEval" if student.suite == "geneval" else f"GenEval ({student.suite})"
    found = _numbers(TEXT, student.suite, name, how, _scores(student))
    write_results(folder, f"fpd-eval geneval, suite {student.suite}", found, "\n".join(lines))


def _scores(outcome: Outcome) -> dict[str, float]:
    return {tag: task.score for tag, task in outcome.scores.tasks.items()} | {"overall": outcome.scores.overall}


def _numbers(task: str, kind: str, data: str, how: Mapping[str, Any], values: Mapping[str, float]) -> list[EvalResult]:
    """One result per number, in full precision."""
    return [
        EvalResult(
            task_type=task,
            dataset_type=kind,
            dataset_name=data,
            metric_args=dict(how),
            metric_type=name,
            metric_name=COLUMNS[name].title if name in COLUMNS else name.replace("_", " "),
            metric_value=value,
        )
        for name, value in values.items()
    ]
