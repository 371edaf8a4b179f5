"""Pictures of the report as PNG bytes: quality against steps, loss curves, sample grid."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, ScalarFormatter
from PIL import Image

from fpd_eval.curves import Curve
from fpd_eval.measures import COLUMNS
from fpd_eval.results import Results, Row

INK, RULE = "#22262b", "#d9dde2"
TEACHER, UNTRAINED = "#2b6cb0", "#868e96"
STUDENTS = ("#d9480f", "#2b8a3e", "#862e9c", "#b08900")
STRIP_GAP = 6
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


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """Colour of every system by name, the same in plots and tables."""
    found = {"teacher": TEACHER}
    students = 0
    for row in rows:
        if row.role == "untrained":
            found[row.name] = UNTRAINED
        elif row.role == "student":
            found[row.name] = STUDENTS[students % len(STUDENTS)]
            students += 1
    return found


def against_steps(results: Results, metrics: Sequence[str]) -> bytes:
    """One panel per metric over the steps (log2): the teacher as a curve, one-step systems as points."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(metrics), 3.6), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _against_steps(axes, results.rows, metric)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return _png(figure)


def _against_steps(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    palette = colours(rows)
    teacher = [row for row in rows if row.role == "teacher"]
    axes.plot(
        [row.steps for row in teacher],
        [row.values[metric] for row in teacher],
        color=TEACHER,
        marker="o",
        linewidth=2,
        label="teacher",
    )
    for row in rows:
        if row.role == "teacher":
            continue
        value, colour = row.values[metric], palette[row.name]
        # The line makes visible which number of teacher steps a one-step system equals.
        axes.axhline(value, color=colour, linewidth=1, linestyle=(0, (4, 4)), alpha=0.6, zorder=1)
        marker, size = ("*", 170) if row.role == "student" else ("X", 70)
        axes.scatter([row.steps], [value], color=colour, label=row.name, zorder=3, marker=marker, s=size)
    column = COLUMNS[metric]
    axes.set_title(f"{column.title}: {column.better} is better")
    axes.set_xlabel("steps")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row.steps for row in rows}))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    if column.better == "lower" and all(row.values[metric] > 0 for row in rows):
        _plain_log_scale(axes)


def _plain_log_scale(axes: Axes) -> None:
    """Ticks at 1, 2, 5 times powers of ten, as plain numbers: powers need the math mode that system names forbid."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def loss_curves(curves: Sequence[Curve]) -> bytes:
    """One panel per group of logged quantities, raw points pale under a running mean."""
    titles = list(dict.fromkeys(curve.panel for curve in curves))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * min(len(titles), 2), 2.9 * ((len(titles) + 1) // 2)), layout="constrained")
        panels = figure.subplots((len(titles) + 1) // 2, min(len(titles), 2), squeeze=False).flatten()
        for axes, title in zip(panels, titles, strict=False):
            shown = [curve for curve in curves if curve.panel == title]
            for number, curve in enumerate(shown):
                _curve(axes, curve, f"C{number}" if len(shown) > 1 else STUDENTS[0])
            axes.set_title(title)
            axes.set_xlabel("step")
            if len(shown) > 1:
                axes.legend(fontsize=8)
        for axes in panels[len(titles) :]:
            axes.set_visible(False)
        return _png(figure)


def _curve(axes: Axes, curve: Curve, colour: str) -> None:
    values = np.asarray(curve.values)
    axes.plot(curve.steps, values, color=colour, alpha=0.25, linewidth=1)
    window = max(1, len(values) // 20)
    padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
    smooth = np.convolve(padded, np.full(window, 1 / window), mode="valid")
    axes.plot(curve.steps, smooth, color=colour, linewidth=1.8, label=curve.name)


def sample_grid(strips: Sequence[tuple[str, str]], class_names: Sequence[str]) -> bytes:
    """Rows of (caption, base64 PNG strip) under the class names, for viewers without HTML."""
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(strip)))) for _, strip in strips]
    gap = np.full((STRIP_GAP, *pictures[0].shape[1:]), 255, np.uint8)
    picture = np.concatenate([part for strip in pictures for part in (strip, gap)])
    ends = np.cumsum([len(strip) + STRIP_GAP for strip in pictures])
    middles = [end - STRIP_GAP - len(strip) / 2 for end, strip in zip(ends, pictures, strict=True)]
    cell = picture.shape[1] / len(class_names)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9, 9 * picture.shape[0] / picture.shape[1]))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_yticks(middles, [caption for caption, _ in strips])
        axes.set_xticks([(i + 0.5) * cell for i in range(len(class_names))], class_names, fontsize=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the software entry equal results give equal bytes under every version string.
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def write_all(pictures: dict[str, bytes], folder: Path) -> None:
    """Each picture as `<name>.png`."""
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(picture)
