"""GenEval results as rows of a comparison: scores with errors, and the same prompts of every system."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fpd_core.config import Config, explain
from fpd_core.untrusted import parse_object, read_json, shown
from fpd_eval.bench.rows import GenEvalRow, Results
from fpd_eval.geneval.classes import TASKS
from fpd_eval.geneval.outcome import Outcome
from fpd_eval.geneval.results import read_results
from fpd_eval.geneval.scores import Scores, missing_images, summarize
from fpd_eval.geneval.suites import suite_called
from fpd_eval.report.judged_strip import judged_strip
from fpd_eval.report.printed import printed

# Task -> name of its published metric.
METRICS = {
    "single_object": "geneval_single",
    "two_object": "geneval_two",
    "counting": "geneval_counting",
    "colors": "geneval_colors",
    "position": "geneval_position",
    "color_attr": "geneval_color_attr",
}
OVERALL = "geneval_overall"
OFFICIAL = "geneval"


class Judged(Config):
    """One system's results.jsonl, and how it is shown.

    `steps`, `published_as` and `note` are those of its system file; without one, steps are those of the record beside
    the results, if there is one.
    """

    name: str
    results: Path
    steps: int | None = None
    published_as: str | None = None
    note: str = ""


def shown_prompts(suite: str = OFFICIAL) -> tuple[str, ...]:
    """The first prompt of every task of a suite: nobody's choice."""
    first = {record["tag"]: record["prompt"] for record in reversed(suite_called(suite).prompts())}
    return tuple(first[tag] for tag in TASKS)


def geneval_row(judged: Judged) -> GenEvalRow:
    """Scores and pictures of one results.jsonl, ours or the original program's.

    Raises:
        ValueError: the file is absent or damaged, or holds other prompts than GenEval's.
    """
    results = read_results(judged.results)
    record = _record(judged.results.with_name("scores.json"))
    suite = record.suite if record else OFFICIAL
    scores = _scores(results, suite, judged.results)
    settings = {**record.images} if record else {}
    steps = judged.steps or settings.get("steps")
    # A mean over other tasks or prompts beside full ones would be taken for the same number.
    overall = {OVERALL: scores.overall} if scores.complete else {}
    return GenEvalRow(
        name=judged.name,
        suite=suite,
        steps=steps,
        images=scores.images,
        prompts=scores.prompts,
        complete=scores.complete,
        settings=_sentence(record) if record else "",
        **_judges(record.detections if record else {}),
        values={METRICS[tag]: task.score for tag, task in scores.tasks.items()} | overall,
        errors={
            name: error
            for name, error in (
                *((METRICS[tag], task.standard_error) for tag, task in scores.tasks.items()),
                (OVERALL, scores.overall_standard_error),
            )
            if error is not None
        },
        published=printed(
            (*METRICS.values(), OVERALL),
            judged.published_as if suite == OFFICIAL else None,
            steps=steps,
            protocol=None,
            settings=settings,
        ),
        note=judged.note,
        samples=_strip(results, suite, judged.results),
    )


def _judges(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Detector and colour classifier as a row names them, from the record beside the detections."""
    if "detector" not in identity:
        return {}
    return {
        "detector": ", ".join(str(identity[name]) for name in ("detector", "preprocessing") if name in identity),
        "detector_weights": str(identity.get("weights_sha256", identity.get("weights", ""))),
        "colors": str(identity.get("colors", "the detector's")),
    }


def require_one_detector(rows: Sequence[GenEvalRow]) -> None:
    """Raises ValueError: two of the rows are known to be judged by different detectors, as their scores then are."""
    known = {(row.detector, row.detector_weights): row for row in rows if row.detector != "unknown"}
    if len(known) > 1:
        first, second, *_ = known.values()
        other = "the same with other weights" if first.detector == second.detector else second.detector
        raise ValueError(
            f"{first.name} was judged by {first.detector}, {second.name} by {other}: scores of two detectors cannot "
            "stand in one table"
        )


def judge_notes(results: Results) -> list[str]:
    """Who judged, for terminals, whose tables have no room for it."""
    judges = dict.fromkeys((row.detector, row.colors) for row in results.geneval)
    return [f"GenEval: boxes by {detector}, colours by {colors}." for detector, colors in judges]


def _scores(results: Sequence[Mapping[str, Any]], suite: str, path: Path) -> Scores:
    counts: dict[str, int] = {}
    try:
        for result in results:
            if result["tag"] not in TASKS:
                raise ValueError(f"unknown task {shown(result['tag'])!r}")
            counts[result["metadata"]] = counts.get(result["metadata"], 0) + 1
        images = [(parse_object(text, source=str(path)), count) for text, count in counts.items()]
        records = suite_called(suite).prompts()
        missing = missing_images(images, samples=max(counts.values(), default=1), records=records)
        return summarize(results, complete=not missing)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold GenEval results: {error} is missing or wrong") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _record(path: Path) -> Outcome | None:
    """What our own run noted beside its results."""
    try:
        return Outcome.model_validate(read_json(path)) if path.exists() else None
    except ValidationError as error:
        raise explain(error, str(path)) from None


def _sentence(record: Outcome) -> str:
    def listed(settings: Mapping[str, Any]) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None)

    made = {name: value for name, value in record.images.items() if name not in ("system", "fingerprint")}
    return (
        f"images: {listed(made)}; detections: {listed(record.detections)}; judge: {listed(record.options.model_dump())}"
    )


def _strip(results: Sequence[Mapping[str, Any]], suite: str, path: Path) -> str:
    try:
        return judged_strip(results, shown_prompts(suite))
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError) as error:
        raise ValueError(f"{path}: the boxes of an image cannot be shown: {error}") from None
