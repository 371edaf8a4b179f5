"""What `timing.jsonl` of a run says: a table and a picture of where the time of its steps went."""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from fpd_core.atomic import write_bytes
from fpd_core.config import ConfigError
from fpd_core.untrusted import read_json_lines

TIMING, PICTURE, SECONDS = "timing.jsonl", "timing.png", "seconds/"
WHOLE = f"{SECONDS}whole"
ENOUGH = 10  # logged steps
BYTES = 2**30
Line = dict[str, Any]


def read(folder: Path) -> list[Line]:
    """The lines of a run, in order. Raises ConfigError: there are none."""
    path = folder / TIMING
    found = read_json_lines(path, limit=BYTES, name="timing.BYTES", error=ConfigError) if path.is_file() else ()
    lines = [line for _, line in found if WHOLE in line]
    if not lines:
        raise ConfigError(f"{path} holds no timings; runs write it every log_every steps")
    return lines


def table(lines: Sequence[Line]) -> Table:
    """Median seconds of each part and their share of the median step."""
    whole = median(line[WHOLE] for line in lines)
    made = Table("part", "ms", "share", title=f"median of {len(lines)} logged steps")
    for name in parts(lines):
        value = median(line.get(name, 0.0) for line in lines)
        made.add_row(name.removeprefix(SECONDS), f"{value * 1000:.1f}", f"{value / whole:.1%}")
    made.add_row("whole step", f"{whole * 1000:.1f}", "", end_section=True)
    last = lines[-1]
    if "utilization" in last:
        rate = median(line["flops_per_second"] for line in lines if "flops_per_second" in line)
        made.add_row("TFLOP/s", f"{rate / 1e12:.3g}", f"{last['utilization']:.1%} of a large matrix product's")
    made.add_row("memory, GiB", f"{last['memory_gib']:.2f}", "")
    return made


def parts(lines: Sequence[Line]) -> list[str]:
    """Names of the parts of a step, in order."""
    found = dict.fromkeys(name for line in lines for name in line if name.startswith(SECONDS) and name != WHOLE)
    return sorted(found, key=lambda name: name == f"{SECONDS}other")


def draw_if_many(folder: Path) -> None:
    """The picture of a run with enough lines for one."""
    if (folder / TIMING).is_file() and len(lines := read(folder)) >= ENOUGH:
        draw(lines, folder / PICTURE)


def draw(lines: Sequence[Line], path: Path) -> None:
    """Seconds of each part against the step, one above the other."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, names = [line["step"] for line in lines], parts(lines)
    heights = [[1000 * line.get(name, 0.0) for line in lines] for name in names]
    bottom = [0.0] * len(steps)
    width = 0.8 * min((b - a for a, b in pairwise(steps)), default=1)
    for place, (name, height) in enumerate(zip(names, heights, strict=True)):
        axes.bar(steps, height, width, bottom, label=name.removeprefix(SECONDS), color=f"C{place % 10}")
        bottom = [a + b for a, b in zip(bottom, height, strict=True)]
    axes.set_xlabel("step")
    axes.set_ylabel("ms per step, each part without those inside it")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
