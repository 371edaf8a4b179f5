"""Several training seeds of one recipe as one row, and whether rows differ by more than their seeds do."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

from fpd_eval.bench.rows import GenEvalRow, Results, Row, SeededRow, Verdict
from fpd_eval.metrics.significance import LEVEL, holm, welch
from fpd_eval.report.cells import Cells, plain
from fpd_eval.report.columns import COLUMNS, GENEVAL_COLUMNS

SAME = ("role", "steps", "network_evaluations", "settings")
SAME_GENEVAL = ("suite", "steps", "prompts", "detector", "colors")


def over_seeds(rows: Sequence[Row]) -> Row:
    """One row of means, with the values of every seed and the pictures of the first; a single row as it is.

    Raises:
        ValueError: the systems are not of one recipe.
    """
    first, *others = rows
    if not others:
        return first
    _require_same(rows, SAME)
    times = [row.ms_per_image for row in rows if row.ms_per_image is not None]
    warnings = tuple(dict.fromkeys(warning for row in rows for warning in row.warnings))
    changed = {"ms_per_image": fmean(times) if times else None, "warnings": warnings}
    return first.model_copy(update=_means([row.values for row in rows]) | changed)


def geneval_over_seeds(rows: Sequence[GenEvalRow]) -> GenEvalRow:
    """The same for GenEval; the errors are then none over prompts. Raises ValueError: not of one recipe or suite."""
    first, *others = rows
    if not others:
        return first
    _require_same(rows, SAME_GENEVAL)
    changed = {"images": sum(row.images for row in rows), "complete": all(row.complete for row in rows), "errors": {}}
    return first.model_copy(update=_means([row.values for row in rows]) | changed)


def _require_same(rows: Sequence[Row] | Sequence[GenEvalRow], fields: Sequence[str]) -> None:
    for field in fields:
        found = {str(row.model_dump(include={field})[field]) for row in rows}
        if len(found) > 1:
            raise ValueError(
                f"{rows[0].name} is to be one recipe with several training seeds, but its {field.replace('_', ' ')} "
                f"differ: {', '.join(sorted(found))}; give them names of their own"
            )


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, object]:
    shared = [name for name in values[0] if all(name in one for one in values)]
    return {"values": {name: fmean(one[name] for one in values) for name in shared}, "seeds": tuple(map(dict, values))}


def verdicts(rows: Sequence[Row] | Sequence[GenEvalRow], asked: Sequence[tuple[str, str]] = ()) -> tuple[Verdict, ...]:
    """Every metric of every two rows that have several seeds. The questions about one metric are corrected together.

    Args:
        asked: names of two rows; by default every pair is asked.
    """
    seeded = [row for row in rows if row.seeds]
    by_name = {row.name: row for row in seeded}
    pairs = list(combinations(seeded, 2))
    if asked:
        pairs = [(by_name[a], by_name[b]) for a, b in asked if a in by_name and b in by_name]
    found = []
    for metric in (*COLUMNS, *GENEVAL_COLUMNS):
        both = [(a, b) for a, b in pairs if metric in a.values and metric in b.values]
        p_values = holm([welch(a.of_seeds(metric), b.of_seeds(metric)) for a, b in both])
        for (a, b), p in zip(both, p_values, strict=True):
            difference = a.values[metric] - b.values[metric]
            found.append(Verdict(metric=metric, first=a.name, second=b.name, difference=difference, p=p))
    return tuple(found)


def verdict_cells(results: Results) -> Cells | None:
    """Every two rows of several seeds, a line per metric; None where there are none."""
    columns, found = COLUMNS | GENEVAL_COLUMNS, results.verdicts
    if not found:
        return None
    return Cells(
        names=[one.first for one in found],
        roles=[""] * len(found),
        columns=[
            plain("Row", found, lambda one: one.first),
            plain("against", found, lambda one: one.second),
            plain("Metric", found, lambda one: columns[one.metric].title),
            plain("Difference", found, lambda one: columns[one.metric].difference(one.difference)),
            plain("Verdict", found, lambda one: one.text),
        ],
    )


def seed_notes(results: Results) -> list[str]:
    """What ± and the verdicts mean; nothing where every row has one seed."""
    rows: list[SeededRow] = [*(row for row in results.rows if not row.is_real), *results.geneval]
    if not any(row.seeds for row in rows):
        return []
    single = list(dict.fromkeys(row.name for row in rows if not row.seeds))
    said = ["± is the standard deviation over training seeds; pictures are those of the first."]
    if results.verdicts:
        said.append(
            f"Real difference: Welch's t-test over the seeds, p < {LEVEL:g} after Holm's correction for the pairs of "
            "rows asked about in a metric. A Fréchet distance is biased by the number of images, equally for all rows."
        )
    return said + ([f"One seed: no verdict on {', '.join(single)}."] if single else [])
