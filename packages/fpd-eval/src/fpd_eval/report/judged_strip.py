"""One row of judged pictures: the boxes with name, score and colour, and whether the judge let the picture pass."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from fpd_core.untrusted import parse_object
from fpd_core.untrusted.images import open_image

SIDE, FRAME, TEXT = 192, 4, 11
RIGHT, WRONG, BOX = "#1a7f4b", "#b3372f", "#ffd400"


def judged_strip(results: Sequence[Mapping[str, Any]], prompts: Sequence[str]) -> str:
    """The first image of every prompt side by side, base64 PNG: green frame and "right", or red and "wrong".

    Grey where an image is missing, empty where all are.
    """
    first = [_first(results, prompt) for prompt in prompts]
    if not any(first):
        return ""
    strip = Image.new("RGB", (SIDE * len(first), SIDE), "lightgrey")
    for number, result in enumerate(first):
        if result is not None:
            strip.paste(_judged(result), (number * SIDE, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _first(results: Sequence[Mapping[str, Any]], prompt: str) -> Mapping[str, Any] | None:
    """The result of a prompt's first image by name; None where that image is gone."""
    found = sorted((result for result in results if result["prompt"] == prompt), key=lambda one: str(one["filename"]))
    return found[0] if found and Path(found[0]["filename"]).exists() else None


def _judged(result: Mapping[str, Any]) -> Image.Image:
    image = open_image(Path(result["filename"])).convert("RGB")
    # Cropping to a square moves boxes as well; small worlds stay sharp.
    square, side = min(image.size), SIDE - 2 * FRAME
    method = Image.Resampling.NEAREST if square < side else Image.Resampling.LANCZOS
    picture = ImageOps.fit(image, (side, side), method)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    offset = [(length - square) / 2 for length in image.size] * 2
    for box, label in _boxes(result):
        place = [(value - shift) * side / square for value, shift in zip(box, offset, strict=True)]
        if place[0] <= place[2] and place[1] <= place[3]:
            draw.rectangle(place, outline=BOX)
        corner = (max(place[0], 0) + 2, max(place[1], 0))
        draw.text(corner, label, fill=BOX, font=font, stroke_width=1, stroke_fill="black")
    is_right = bool(result["correct"])
    draw.text((2, side - TEXT - 4), "right" if is_right else "wrong", fill="white", font=font, stroke_width=2,
              stroke_fill=RIGHT if is_right else WRONG)  # fmt: skip
    return ImageOps.expand(picture, FRAME, RIGHT if is_right else WRONG)


def _boxes(result: Mapping[str, Any]) -> list[tuple[list[float], str]]:
    """(x0, y0, x1, y1; what to write at it). The original program's results name no colours."""
    path = str(result["filename"])
    details, colors = (parse_object(result.get(key, "{}"), source=path) for key in ("details", "colors"))
    return [
        (box[:4], " ".join(word for word in (color, name, f"{box[4]:.2f}") if word))
        for name, boxes in details.items()
        for box, color in zip(boxes, colors.get(name, [None] * len(boxes)), strict=True)
    ]
