"""What was judged, to look at: one page of scores, and per task a page of images with boxes and reasons."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from fpd_eval.geneval.classes import TASKS
from fpd_eval.geneval.layout import Sample, write_whole
from fpd_eval.geneval.outcome import Outcome

THUMBNAIL = 320
TITLES = {
    "single_object": "Single object",
    "two_object": "Two objects",
    "counting": "Counting",
    "colors": "Colours",
    "position": "Position",
    "color_attr": "Colour attribution",
}

Judged = Sequence[tuple[Sample, Mapping[str, Any]]]


def write_pages(folder: Path, outcome: Outcome, judged: Judged, *, asked: int) -> Path:
    """`index.html` and `<task>.html`, each complete in itself with embedded pictures; the path of the first.

    Args:
        asked: prompts of the whole suite.
    """
    environment = Environment(loader=PackageLoader("fpd_eval.geneval"), autoescape=True, undefined=StrictUndefined)
    tasks = [tag for tag in TASKS if tag in outcome.scores.tasks]
    shared = {"outcome": outcome, "titles": TITLES, "tasks": tasks, "asked": asked}
    for tag in tasks:
        prompts = _prompts([(sample, result) for sample, result in judged if result["tag"] == tag])
        page = environment.get_template("geneval_task.html.j2").render(tag=tag, prompts=prompts, **shared)
        write_whole(folder / f"{tag}.html", page.encode())
    index = folder / "index.html"
    write_whole(index, environment.get_template("geneval.html.j2").render(**shared).encode())
    return index


def _prompts(judged: Judged) -> list[dict[str, Any]]:
    """Per prompt: number, text and pictures."""
    prompts: dict[str, dict[str, Any]] = {}
    for sample, result in judged:
        number = sample.key.parent.name
        prompt = prompts.setdefault(number, {"number": number, "text": result["prompt"], "pictures": []})
        prompt["pictures"].append(_picture(sample, result))
    return list(prompts.values())


def _picture(sample: Sample, result: Mapping[str, Any]) -> dict[str, Any]:
    """A thumbnail and the kept boxes in pixels of the original; boxes of other classes than the prompt's are minor."""
    image = sample.open()
    size = image.size
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=80)
    wanted = {clause["class"] for clause in sample.record["include"]}
    boxes = [
        {"name": name, "minor": name not in wanted, "box": box[:4], "score": box[4]}
        for name, found in json.loads(result["details"]).items()
        for box in found
    ]
    return {
        "name": sample.path.name,
        "jpeg": base64.b64encode(buffer.getvalue()).decode(),
        "width": size[0],
        "height": size[1],
        "boxes": sorted(boxes, key=lambda box: not box["minor"]),
        "correct": result["correct"],
        "reason": result["reason"],
    }
