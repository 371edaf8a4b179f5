"""The official results.jsonl: one judged image per line."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fpd_core.untrusted import read_json_lines
from fpd_eval.geneval.classes import CLASSES
from fpd_eval.geneval.detector import Detection
from fpd_eval.geneval.judge import Verdict
from fpd_eval.geneval.layout import Sample, write_whole

RESULT_BYTES = 2**28
FIELDS = {"filename": str, "tag": str, "prompt": str, "correct": bool, "metadata": str}


def result(sample: Sample, verdict: Verdict, kept: Mapping[str, Sequence[Detection]]) -> dict[str, Any]:
    """One line; `metadata`, `details` and `colors` are JSON texts, boxes are float32 as in the original.

    `colors`, which the original lacks, names those that are known, in the order of the boxes in `details`.
    """
    names = [name for name in CLASSES if name in kept]
    details = {name: [np.array(box[:5], np.float32).tolist() for box in kept[name]] for name in names}
    return {
        "filename": str(sample.path),
        "tag": sample.record["tag"],
        "prompt": sample.record["prompt"],
        "correct": verdict.correct,
        "reason": verdict.reason,
        "metadata": json.dumps(sample.record),
        "details": json.dumps(details),
        "colors": json.dumps({name: colors for name in names if any(colors := [box.color for box in kept[name]])}),
    }


def write_results(path: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    write_whole(path, "".join(json.dumps(result) + "\n" for result in results).encode())


def read_results(path: Path) -> list[dict[str, Any]]:
    """Ours or the original program's. Raises ValueError: absent or damaged; the message names the line."""
    results = []
    for source, record in read_json_lines(path, limit=RESULT_BYTES, name="RESULT_BYTES"):
        wrong = [field for field, kind in FIELDS.items() if not isinstance(record.get(field), kind)]
        if wrong:
            raise ValueError(f"{source} is no GenEval result: {wrong[0]} is missing or no {FIELDS[wrong[0]].__name__}")
        results.append(record)
    return results
