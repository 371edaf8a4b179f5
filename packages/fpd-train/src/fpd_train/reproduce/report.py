"""The table as Markdown and the plot of quality against steps. Published numbers stand in a table of their own."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fpd_core.atomic import write_bytes, write_text
from fpd_train.reproduce.chain import Chain, Taken
from fpd_train.reproduce.declared import Ordering, Table

LEVEL = 0.05
COLUMNS = {  # metric of fpd-eval: title, decimals
    "fd_classifier": ("FD, classifier", 1),
    "fd_efficientnet": ("FD, EfficientNet", 1),
    "inception_score": ("IS", 2),
    "precision": ("Precision", 3),
    "recall": ("Recall", 3),
    "class_accuracy": ("Class accuracy", 3),
}
Curves = Mapping[str, Mapping[int, Sequence[float]]]  # by row and steps, one value per seed


@dataclass(frozen=True)
class Cost:
    """What a row takes."""

    updates: int
    rate_factor: float
    seconds: float
    seconds_per_update: float
    peak_memory: int
    auxiliary: str


def cost(chains: Sequence[Chain], fastest: Sequence[Taken]) -> Cost:
    """The highest memory of a row's seeds; seconds as budgets count them, by the `fastest` run of each stage."""
    updates = [taken.updates for taken in chains[0].taken]
    training = sum(count * one.seconds_per_update for count, one in zip(updates, fastest, strict=True))
    return Cost(
        updates=sum(updates),
        rate_factor=chains[0].rate_factor,
        seconds=training + sum(one.pairs_seconds for one in fastest),
        seconds_per_update=training / sum(updates),
        peak_memory=max(taken.peak_memory for chain in chains for taken in chain.taken),
        auxiliary=chains[0].row.auxiliary,
    )


def write_table(
    table: Table,
    name: str,
    said: str,
    results: Mapping[str, Any],
    costs: Mapping[str, Cost],
    lacks: Sequence[str],
    out: Path,
) -> str:
    """Write NAME.md; its text.

    Args:
        said: what the budget is.
        results: of `fpd-eval compare --json`.
        costs: by row; a row that shows an earlier stage has none.
        lacks: runs that failed, with their reasons.
    """
    rows = [_row(row, costs.get(row["name"])) for row in results["rows"]]
    titles = ["row", "steps", "trains besides", "rate", "updates", *(title for title, _ in COLUMNS.values())]
    lines = [f"# {table.title}: {name}", "", said, ""]
    lines += markdown([*titles, "s per update", "s in all", "GiB"], [_real(results["reference"]), *rows])
    if table.orderings:
        lines += [
            "",
            f"The paper's orderings, by Welch's test over the seeds (p < {LEVEL:g} after Holm's correction):",
            "",
        ]
        lines += markdown(
            ["better in the paper", "worse", "here, by", "verdict", "p", "the paper's numbers"],
            [line for metric in table.judged_by for line in _judged(table.orderings, metric, results["verdicts"])],
        )
    lines += ["", f"## {table.published_title}", ""]
    lines += markdown(
        ["method", "steps", "FID", "IS", "Precision", "Recall"],
        [
            [one.method, *map(_known, (one.steps, one.fid, one.inception_score, one.precision, one.recall))]
            for one in table.published
        ],
    )
    lines += ["", *(f"* {note}" for note in table.notes)]
    lines += ["", "Failed:", *(f"* {lack}" for lack in lacks)] if lacks else []
    text = "\n".join(lines) + "\n"
    write_text(out / f"{name}.md", text)
    return text


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, its first column to the left."""
    cells = [titles, [":---", *["---:"] * (len(titles) - 1)], *rows]
    return [f"| {' | '.join(one)} |" for one in cells]


def _known(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _row(row: Mapping[str, Any], cost: Cost | None) -> list[str]:
    seeds = row["seeds"] or [row["values"]]
    values = [_spread([one[metric] for one in seeds], decimals) for metric, (_, decimals) in COLUMNS.items()]
    before = [row["name"], str(row["steps"])]
    if cost is None:
        return [*before, "–", "–", "–", *values, "–", "–", "–"]
    trained = [cost.auxiliary, f"× {cost.rate_factor:g}", str(cost.updates)]
    took = [f"{cost.seconds_per_update:.2f}", f"{cost.seconds:.0f}", f"{cost.peak_memory / 2**30:.1f}"]
    return [*before, *trained, *values, *took]


def _real(reference: Mapping[str, Any]) -> list[str]:
    known = reference["values"]
    values = [f"{known[m]:.{decimals}f}" if m in known else "–" for m, (_, decimals) in COLUMNS.items()]
    return ["real images", "–", "–", "–", "–", *values, "–", "–", "–"]


def _spread(values: Sequence[float], decimals: int) -> str:
    spread = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{decimals}f}{spread}"


def _judged(orderings: Sequence[Ordering], metric: str, verdicts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Each ordering in one metric that is the better the lower it is."""
    known = {(one["first"], one["second"]): one for one in verdicts if one["metric"] == metric}
    lines = []
    for one in orderings:
        found = known.get((one.better, one.worse))
        p = None if found is None else found["p"]
        answer = "not measured" if found is None else judge(found["difference"], p)
        lines.append([one.better, one.worse, COLUMNS[metric][0], answer, "–" if p is None else f"{p:.2g}", one.paper])
    return lines


def judge(difference: float, p: float | None) -> str:
    """What a difference, better minus worse in the paper, says about the paper's ordering. Lower is better."""
    if p is None:
        return "no spread: no verdict"
    if p >= LEVEL:
        return "within noise"
    return "holds" if difference < 0 else "does not hold"


def write_steps_plot(curves: Curves, metric: str, path: Path) -> None:
    """Quality against steps: a line per row through the means over seeds, every seed a dot."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for place, (row, found) in enumerate(curves.items()):
        steps = sorted(found)
        color, dashed = f"C{place % 10}", row.startswith("teacher")
        means = [fmean(found[n]) for n in steps]
        marker = "s" if place >= 10 else "o"  # the colours come round again
        axes.plot(steps, means, "--" if dashed else "-", label=row, linewidth=1.4, color=color, marker=marker)
        for n in steps:
            axes.scatter([n] * len(found[n]), found[n], s=9, color=color)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({n for found in curves.values() for n in found}), minor=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("forward passes of the generator")
    axes.set_ylabel(f"{COLUMNS[metric][0]} (lower is better)")
    figure.legend(fontsize=8, loc="outside right upper")  # in the axes it would hide lines
    axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
