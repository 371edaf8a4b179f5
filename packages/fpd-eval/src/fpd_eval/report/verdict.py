"""The comparison in one sentence, and rows that are one system under two names as one."""

from collections.abc import Sequence

from fpd_eval.bench.rows import GenEvalRow, Results, Row
from fpd_eval.report.columns import COLUMNS, GENEVAL_COLUMNS

# What decides, the most telling first: distances that no loss saw, then the others.
DECIDERS = ("fdr_held_out", "fid", "fd_classifier", "fdd", "sfid", "fdr")
SAME = ("role", "steps", "network_evaluations", "settings", "values", "seeds", "encoders", "samples")


def merged(results: Results) -> Results:
    """Rows that agree in every number, setting and picture become one, named after all of them: in a plot the marker
    of one would hide the other's. Times are measured apart and do not count; the first's stays."""
    groups: list[list[Row]] = []
    for row in results.rows:
        place = next((group for group in groups if _key(group[0]) == _key(row)), None)
        if place is None:
            groups.append([row])
        else:
            place.append(row)
    if len(groups) == len(results.rows):
        return results
    return results.model_copy(update={"rows": tuple(_one(group) for group in groups)})


def _key(row: Row) -> dict[str, object]:
    return row.model_dump(include=set(SAME))


def _one(group: Sequence[Row]) -> Row:
    first = group[0]
    names = " = ".join(dict.fromkeys(row.name for row in group))[:200]
    published = {name: values for row in reversed(group) for name, values in row.published.items()}
    note = "; ".join(dict.fromkeys(row.note for row in group if row.note))
    return first.model_copy(update={"name": names, "published": published, "note": note})


def verdict_sentence(results: Results) -> str:
    """Where the best student stands against its teacher; without these, which system is the best."""
    metric = next((name for name in DECIDERS if _rows_with(results, name)), None)
    if metric is None:
        return _geneval_sentence([row for row in results.geneval if row.complete])
    rows, column = _rows_with(results, metric), COLUMNS[metric]

    def shown(row: Row) -> str:
        sd = row.sd(metric)
        return column.text(row.values[metric]) + (f" ± {column.text(sd)}" if sd is not None else "")

    def steps(row: Row) -> str:
        return "one step" if row.steps == 1 else f"{row.steps} steps"

    students = [row for row in rows if row.role == "student"]
    teachers = sorted((row for row in rows if row.role == "teacher"), key=lambda row: row.steps)
    if not students or not teachers:
        best = min(rows, key=lambda row: row.values[metric])
        others = f" of {len(rows)} systems" if len(rows) > 1 else ""
        return f"The lowest {column.title}{others} is {shown(best)}: {best.name} in {steps(best)}."
    student, best = (min(one, key=lambda row: row.values[metric]) for one in (students, teachers))
    beaten = [row for row in teachers if student.values[metric] <= row.values[metric]]
    if len(beaten) == len(teachers):
        where = f"no higher than the teacher's at any step count (its lowest: {shown(best)} in {steps(best)})"
    elif beaten:
        counts = ", ".join(str(row.steps) for row in beaten) + (" steps" if beaten[-1].steps > 1 else " step")
        where = f"no higher than the teacher's in {counts}, above its lowest, {shown(best)} in {steps(best)}"
    else:
        where = f"above the teacher's at every step count (its lowest: {shown(best)} in {steps(best)})"
    share = f", with {student.network_evaluations} network evaluation{'s' * (student.network_evaluations > 1)} an image"
    return (
        f"In {steps(student)} {student.name} has {column.title} {shown(student)}, {where}{share} against "
        f"{best.network_evaluations}; lower is better."
    )


def _rows_with(results: Results, metric: str) -> list[Row]:
    return [row for row in results.rows if metric in row.values and not row.is_real]


def _geneval_sentence(rows: Sequence[GenEvalRow]) -> str:
    metric = "geneval_overall"
    rows = [row for row in rows if metric in row.values]
    if not rows:
        return "No system was measured whole: these numbers decide nothing."
    best = max(rows, key=lambda row: row.values[metric])
    others = f" of {len(rows)} systems" if len(rows) > 1 else ""
    return f"The highest overall score{others} is {GENEVAL_COLUMNS[metric].text(best.values[metric])}: {best.name}."
