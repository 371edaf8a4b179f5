"""Loss curves of a training run, from its `metrics.jsonl`."""

import json
import math
import re
import warnings
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fpd_core.config import Config, Line, Name, Whole
from fpd_core.untrusted import read_bytes

METRICS = "metrics.jsonl"
MAX_POINTS, MAX_CURVES = 400, 64
LOG_BYTES = 2**28
LARGEST = 1e15  # beyond it, and beyond names of this length, nothing can be drawn
NAME_LENGTH = 100

PANELS = {
    "Loss": re.compile(r"(.*[/_.])?loss"),
    "Drift (RMS)": re.compile(r"rms|z_h[^/]*"),
    "Distance": re.compile(r"mmd|frechet"),
    "Alignment and signal": re.compile(r"(.*[/_.])?(alignment|signal)"),
    "Token entropy": re.compile(r"(.*[/_.])?entropy"),
    "Energy distance to the refinement": re.compile(r"progress/.+"),
    "Energy distance to the teacher": re.compile(r"teacher/.+"),
    "Held-out drafts": re.compile(r"heldout/.+"),
}


class Curve(Config):
    """One logged quantity over the optimizer steps, thinned to at most 400 points."""

    panel: Line
    name: Name
    steps: tuple[Annotated[Whole, Field(ge=0, le=LARGEST)], ...] = Field(min_length=1)
    values: tuple[Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST)], ...]


def read_curves(run: Path) -> tuple[Curve, ...]:
    """The curves of `PANELS` that a run logged, in the order of the panels. Lines that are not JSON are warned about.

    Raises:
        ValueError: the run has no `metrics.jsonl`.
    """
    path = run / METRICS
    if not path.is_file():
        raise ValueError(f"{run} is not a training run: {path} does not exist")
    points: dict[str, list[tuple[int, float]]] = {}
    for record in _records(path):
        for key, value in record.items():
            if type(value) in (int, float) and abs(value) <= LARGEST and key.isprintable() and len(key) <= NAME_LENGTH:
                points.setdefault(key, []).append((int(record["step"]), float(value)))
    named = [(panel, name) for panel, form in PANELS.items() for name in points if form.fullmatch(name)]
    if len(named) > MAX_CURVES:
        raise ValueError(f"{path} logs {len(named)} curves, more than {MAX_CURVES}")
    return tuple(_curve(panel, name, points[name]) for panel, name in named)


def _records(path: Path) -> list[dict[str, Any]]:
    records, bad = [], 0
    for line in read_bytes(path, limit=LOG_BYTES, name="LOG_BYTES").decode(errors="replace").splitlines():
        try:
            record = json.loads(line)  # NaN is logged and left out
        except (ValueError, RecursionError):
            bad += 1
            continue
        if isinstance(record, dict) and type(step := record.get("step")) is int and 0 <= step <= LARGEST:
            records.append(record)
    if bad:
        warnings.warn(f"{path}: {bad} lines are not JSON and are left out of the curves", stacklevel=3)
    return records


def _curve(panel: str, name: str, points: list[tuple[int, float]]) -> Curve:
    stride = math.ceil(len(points) / MAX_POINTS)
    steps, values = zip(*points[::stride], strict=True)
    return Curve(panel=panel, name=name, steps=steps, values=values)
