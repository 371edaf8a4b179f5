"""Runs as tables: mean ± standard deviation over seeds, the paper's orderings judged, a plot, `results.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
from ablation_runs import Declared, Ordering, Run
from matplotlib.figure import Figure

from fpd_core.atomic import write_bytes, write_text
from fpd_eval.metrics.significance import LEVEL, against_fixed, holm, welch
from fpd_eval.report.columns import AIMS, COLUMNS, GENEVAL_COLUMNS, Better, Column, shortfall
from fpd_eval.report.tables import markdown_text

SHOWN = COLUMNS | GENEVAL_COLUMNS
Values = dict[str, list[float]]  # of a row: by metric, one per seed


def write_report(
    declared: Declared,
    world: str,
    table: str,
    runs: Sequence[Run],
    teachers: Mapping[int, Mapping[str, float]],
    settings: Mapping[str, Any],
    out: Path,
) -> str:
    """Write TABLE.md, TABLE.json and TABLE.png; the Markdown."""
    rows = {name: _values([run for run in runs if run.row == name]) for name in declared.tables[table].rows}
    fixed = {f"teacher, {steps} step{'s' if steps > 1 else ''}": dict(found) for steps, found in teachers.items()}
    judged = declared.worlds[world].judged
    reference = next((run.reference for run in runs if run.reference), {})
    verdicts = [
        record
        for metric, better in judged.items()
        for record in judge(
            declared.tables[table].orderings, rows, fixed, metric, better=better, real=reference.get(metric)
        )
    ]
    steps = sorted({run.config.steps for run in runs if run.config is not None})
    record = {
        "format_version": 1,
        "table": table,
        "world": world,
        "steps": steps,
        "settings": dict(settings),
        "real": reference,
        "teachers": fixed,
        "rows": [
            {
                **{"row": run.row, "seed": run.seed, "values": run.values, "reason": run.reason},
                **{"run": str(run.folder), "ready": run.ready and str(run.ready)},
            }
            for run in runs
        ],
        "orderings": verdicts,
    }
    text = _markdown(declared.tables[table].title, record, rows, fixed, runs)
    write_text(out / f"{table}.json", json.dumps(record, indent=2) + "\n")
    write_text(out / f"{table}.md", text)
    write_bytes(out / f"{table}.png", _plot(rows, fixed, reference, list(judged)))
    return text


def _values(runs: Sequence[Run]) -> Values:
    """What all measured seeds have: an earlier one may lack a metric that is newer."""
    found = [run.values for run in runs if run.values is not None]
    shared = [name for name in (found[0] if found else {}) if all(name in one for one in found)]
    return {name: [one[name] for one in found] for name in shared}


def judge(
    orderings: Sequence[Ordering],
    rows: Mapping[str, Values],
    fixed: Mapping[str, Mapping[str, float]],
    metric: str,
    *,
    better: Better,
    real: float | None = None,
) -> list[dict[str, Any]]:
    """Each ordering in one metric; Holm's correction is over those of the table. A teacher is a fixed number.

    Args:
        real: the real images' value, which `better` "as_real" takes distances from, seed by seed.
    """

    def shortfalls(values: Sequence[float]) -> list[float]:
        return [found for value in values if (found := shortfall(value, better, real)) is not None]

    lacking = {name: shortfalls(values.get(metric, [])) for name, values in rows.items()}
    known = {name: next(iter(shortfalls([values[metric]])), None) for name, values in fixed.items() if metric in values}
    sides = [[lacking.get(name, []) for name in (one.better, one.worse)] for one in orderings]
    numbers = [[known.get(name) for name in (one.better, one.worse)] for one in orderings]
    p_values = holm([_p(*pair, *fixed_pair) for pair, fixed_pair in zip(sides, numbers, strict=True)])
    return [
        {
            **{"metric": metric, "better": one.better, "worse": one.worse, "paper": one.paper, "source": one.source},
            **{"p": p, "verdict": _answer(*map(_mean, pair, fixed_pair), p, [*pair])},
        }
        for one, pair, fixed_pair, p in zip(orderings, sides, numbers, p_values, strict=True)
    ]


def _p(better: list[float], worse: list[float], fixed_better: float | None, fixed_worse: float | None) -> float | None:
    if fixed_better is not None:
        return against_fixed(worse, fixed_better)
    return against_fixed(better, fixed_worse) if fixed_worse is not None else welch(better, worse)


def _mean(values: list[float], fixed: float | None) -> float | None:
    return fixed if fixed is not None else fmean(values) if values else None


def _answer(better: float | None, worse: float | None, p: float | None, seeds: list[list[float]]) -> str:
    if better is None or worse is None:
        return "not measured"
    if p is None:
        return "one seed: no verdict" if any(len(values) == 1 for values in seeds) else "no spread: no verdict"
    if p >= LEVEL:
        return "within noise"
    return "holds" if better < worse else "does not hold"


def _markdown(
    title: str,
    record: Mapping[str, Any],
    rows: Mapping[str, Values],
    fixed: Mapping[str, Mapping[str, float]],
    runs: Sequence[Run],
) -> str:
    known = {name for values in [*rows.values(), *fixed.values()] for name in values}
    columns = {name: column for name, column in SHOWN.items() if name in known}
    trained = f", {record['steps']} steps" if record["steps"] else ""
    lines = [f"# {title}", "", f"World {record['world']}{trained}, {dict(record['settings'])}.", ""]
    ready = [markdown_text(f"{run.row} ({run.ready})") for run in runs if run.ready is not None]
    lines += [f"Finished students, trained elsewhere and measured here: {', '.join(ready)}.", ""] if ready else []
    lines += ["| row | seeds |" + "".join(f" {column.title} |" for column in columns.values())]
    lines += ["|:---|---:|" + "---:|" * len(columns)]
    if record["real"]:
        lines.append(
            "| real images | – |"
            + "".join(_cell(c, [record["real"][n]] if n in record["real"] else []) for n, c in columns.items())
        )
    for name, known_values in fixed.items():
        lines.append(
            f"| {name} | – |"
            + "".join(_cell(c, [known_values[n]] if n in known_values else []) for n, c in columns.items())
        )
    for name, values in rows.items():
        count = max(map(len, values.values()), default=0)
        lines.append(
            f"| {markdown_text(name)} | {count} |" + "".join(_cell(c, values.get(n, [])) for n, c in columns.items())
        )
    if record["orderings"]:
        lines += [
            "",
            f"Orderings of the paper, whose numbers are of its own world. Level {LEVEL:g} by Welch's",
            "t-test over seeds (a teacher is one fixed number), Holm's correction over the orderings of a metric.",
            "",
        ]
        lines += ["| better | worse | metric here | verdict | p | the paper |", "|:---|:---|:---|:---|---:|:---|"]
        for one in record["orderings"]:
            p = "–" if one["p"] is None else f"{one['p']:.2g}"
            ours = [one["better"], one["worse"], SHOWN[one["metric"]].title, one["verdict"], p]
            lines.append(f"| {' | '.join(ours)} | {one['paper']} ({one['source']}) |")
    failed = [f"* {run.name}: {run.reason}" for run in runs if run.reason]
    return "\n".join([*lines, *(["", "Failed:", *failed] if failed else [])]) + "\n"


def _cell(column: Column, values: Sequence[float]) -> str:
    if not values:
        return " – |"
    spread = f" ± {column.text(stdev(values))}" if len(values) > 1 else ""
    return f" {column.text(fmean(values))}{spread} |"


def _plot(
    rows: Mapping[str, Values],
    fixed: Mapping[str, Mapping[str, float]],
    real: Mapping[str, float],
    metrics: Sequence[str],
) -> bytes:
    """One panel per judging metric: every seed a dot, the mean a bar, teachers as lines, and what is to be met."""
    import io

    matplotlib.use("agg")
    figure = Figure(figsize=(5.5 * len(metrics), 1.2 + 0.32 * len(rows)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for place, values in enumerate(rows.values()):
            if found := values.get(metric):
                axes.scatter(found, [place] * len(found), s=14, color="#2b6cb0")
                axes.scatter([fmean(found)], [place], s=160, marker="|", color="#d9480f")
        for known in fixed.values():
            if metric in known:
                axes.axvline(known[metric], color="#868e96", linewidth=1, linestyle=":")
        if SHOWN[metric].better == "as_real" and metric in real:
            axes.axvline(real[metric], color="#22262b", linewidth=1.2)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_title(f"{SHOWN[metric].title}: {AIMS[SHOWN[metric].better]}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    return buffer.getvalue()
