"""Pictures of the report as PNG bytes: quality against steps, GenEval, loss curves."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, ScalarFormatter

from fpd_eval.bench.curves import Curve
from fpd_eval.bench.rows import GenEvalRow, Results, Row
from fpd_eval.report.columns import AIMS, COLUMNS, GENEVAL_COLUMNS

INK, RULE = "#22262b", "#d9dde2"
TEACHER, UNTRAINED = "#2b6cb0", "#868e96"
OTHERS = ("#d9480f", "#2b8a3e", "#862e9c", "#b08900", "#c2255c", "#0b7285", "#5f3dc4", "#846358")
MARKERS = {
    "untrained": ("X", 70),
    "student": ("*", 170),
    "baseline": ("D", 60),
    "external": ("s", 60),
    "real": ("P", 70),
}
SHARES = ("precision", "class_accuracy")  # means of a yes or no per generated image
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eceff2",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,
    "savefig.dpi": 160,
}


def colours(results: Results) -> dict[str, str]:
    """Colour of every system by name, the same in plots and tables: blue is the first teacher, grey the untrained."""
    roles = {row.name: row.role for row in results.rows}
    teacher = next((name for name, role in roles.items() if role == "teacher"), None)
    untrained = [name for name, role in roles.items() if role == "untrained"]
    found = {teacher: TEACHER} if teacher is not None else {}
    found |= dict.fromkeys(untrained, UNTRAINED)
    names = dict.fromkeys([*roles, *(row.name for row in results.geneval)])
    others = [name for name in names if name not in found]
    return found | {name: OTHERS[number % len(OTHERS)] for number, name in enumerate(others)}


def against_steps(results: Results, metrics: Sequence[str], *, columns: int = 3) -> bytes:
    """One panel per metric over the steps (log2), `columns` to a row: teachers as curves, the others as points with a
    level line."""
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(metrics), columns, height=3.6)
        for axes, metric in zip(panels, metrics, strict=False):
            _against_steps(axes, results, metric)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * columns))
        return png(figure)


def _panels(count: int, columns: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, `columns` to a row, each of `height` inches."""
    beside = min(count, columns)
    rows = -(-count // beside)
    figure = Figure(figsize=(9.2 if columns > 1 else 4.6, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, beside, squeeze=False).flatten())
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels


def _against_steps(axes: Axes, results: Results, metric: str) -> None:
    palette, rows = colours(results), results.rows
    for name in dict.fromkeys(row.name for row in rows if row.role == "teacher"):
        curve = sorted((row.steps, row.values[metric]) for row in rows if row.name == name)
        axes.plot(*zip(*curve, strict=True), color=palette[name], marker="o", linewidth=2, label=name)
        for row in (row for row in rows if row.name == name):
            if (spread := _spread(results, row, metric)) is not None:
                axes.errorbar([row.steps], [row.values[metric]], yerr=[spread], color=palette[name], capsize=3)
    for row in rows:
        if row.role == "teacher":
            continue
        value, colour = row.values[metric], palette[row.name]
        # The line makes visible which number of teacher steps a one-step system equals.
        axes.axhline(value, color=colour, linewidth=1, linestyle=(0, (4, 4)), alpha=0.6, zorder=1)
        if (spread := _spread(results, row, metric)) is not None:
            axes.errorbar([row.steps], [value], yerr=[spread], color=colour, capsize=3, zorder=2)
        marker, size = MARKERS[row.role]
        axes.scatter([row.steps], [value], color=colour, label=row.name, zorder=3, marker=marker, s=size)
    column = COLUMNS[metric]
    if column.better == "as_real" and results.reference and metric in results.reference.values:
        axes.axhline(results.reference.values[metric], color=INK, linewidth=1.2, label="real images", zorder=1)
    axes.set_title(f"{column.title}: {AIMS[column.better]}")
    axes.set_xlabel("steps")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row.steps for row in rows}))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    if column.better == "lower" and all(row.values[metric] > 0 for row in rows):
        _plain_log_scale(axes)


def _spread(results: Results, row: Row, metric: str) -> float | None:
    """Standard deviation over training seeds; of a share of independent images, where there is one seed, its binomial
    standard error. None for what neither gives."""
    if (sd := row.sd(metric)) is not None or metric not in SHARES or results.protocol is None:
        return sd
    share = row.values[metric]
    return float(np.sqrt(max(share * (1 - share), 0) / results.protocol.num_images))


def geneval_bars(results: Results) -> bytes:
    """Bars of the six tasks and overall with standard errors; a hollow diamond is what a paper prints."""
    rows, palette = results.geneval, colours(results)
    width = min(0.84 / len(rows), 0.3)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(9.2, 1.6 + 0.16 * len(rows) * len(GENEVAL_COLUMNS)), 3.8), layout="constrained")
        axes = figure.subplots()
        for number, row in enumerate(rows):
            shown = [place for place, name in enumerate(GENEVAL_COLUMNS) if name in row.values]
            names = [list(GENEVAL_COLUMNS)[place] for place in shown]
            places = np.array(shown) + (number - (len(rows) - 1) / 2) * width
            heights, errors = [row.values[name] for name in names], [_whisker(row, name) for name in names]
            label = row.name if row.complete else f"{row.name} (partial)"
            style: Any = {"color": palette[row.name], "alpha": 1.0 if row.complete else 0.45}
            axes.bar(places, heights, width * 0.92, yerr=errors, ecolor=INK, capsize=1.5, label=label, **style)
            _published_diamonds(axes, row, dict(zip(names, places.tolist(), strict=True)))
        axes.set_xticks(range(len(GENEVAL_COLUMNS)), [column.title for column in GENEVAL_COLUMNS.values()])
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set_axisbelow(True)
        axes.set_ylim(0, 1)
        axes.set_title("GenEval: higher is better")
        figure.legend(loc="outside lower center", ncols=4)
        return png(figure)


def _whisker(row: GenEvalRow, metric: str) -> float:
    sd = row.sd(metric)
    return row.errors.get(metric, 0.0) if sd is None else sd


def _published_diamonds(axes: Axes, row: GenEvalRow, places: dict[str, float]) -> None:
    points = [(place, value.value) for name, place in places.items() for value in row.published.get(name, ())]
    if points:
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, marker="D", s=26, facecolor="white", edgecolor=INK, linewidth=1.1, zorder=4)


def _plain_log_scale(axes: Axes) -> None:
    """Ticks at 1, 2, 5 times powers of ten, as plain numbers: powers need the math mode that system names forbid."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def loss_curves(curves: Sequence[Curve], *, columns: int = 2) -> bytes:
    """One panel per group of logged quantities, raw points pale under a running mean."""
    titles = list(dict.fromkeys(curve.panel for curve in curves))
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(titles), columns, height=2.9)
        for axes, title in zip(panels, titles, strict=False):
            shown = [curve for curve in curves if curve.panel == title]
            for number, curve in enumerate(shown):
                _curve(axes, curve, f"C{number}" if len(shown) > 1 else OTHERS[0])
            axes.set_title(title)
            axes.set_xlabel("step")
            if len(shown) > 1:
                axes.legend(fontsize=8)
        return png(figure)


def _curve(axes: Axes, curve: Curve, colour: str) -> None:
    values = np.asarray(curve.values)
    axes.plot(curve.steps, values, color=colour, alpha=0.25, linewidth=1)
    window = max(1, len(values) // 20)
    padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
    smooth = np.convolve(padded, np.full(window, 1 / window), mode="valid")
    axes.plot(curve.steps, smooth, color=colour, linewidth=1.8, label=curve.name)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    # Without the software entry equal results give equal bytes under every version string.
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()
