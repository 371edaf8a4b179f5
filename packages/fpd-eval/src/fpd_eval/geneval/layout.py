"""The official folder layout: `<root>/<index>/metadata.jsonl` and `<root>/<index>/samples/<digits>.png`."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fpd_core.atomic import write_bytes
from fpd_core.untrusted import read_json
from fpd_core.untrusted.images import open_image
from fpd_eval.geneval.prompts import Record

METADATA, SAMPLES = "metadata.jsonl", "samples"
# Anchored at the start only, as in the official program.
IMAGE = re.compile(r"\d+\.png")


@dataclass(frozen=True)
class Sample:
    """One image and the record of the prompt it was made for."""

    path: Path
    record: Record

    @property
    def key(self) -> Path:
        """Folder of the prompt and name of the image, without suffix: unique within a root."""
        return Path(self.path.parent.parent.name, self.path.stem)

    def open(self) -> Image.Image:
        """The picture, RGB, EXIF orientation applied. Raises ValueError: no readable image."""
        return ImageOps.exif_transpose(open_image(self.path)).convert("RGB")


@dataclass(frozen=True)
class PromptFolder:
    """One prompt and its images, by name."""

    record: Record
    samples: tuple[Sample, ...]


def read_layout(root: Path) -> list[PromptFolder]:
    """Every prompt of a folder in the official layout, by index; subfolders not named by digits are ignored.

    Raises:
        ValueError: no such folder, no prompt in it, or a damaged record.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    folders = sorted((path for path in root.iterdir() if path.is_dir() and path.name.isdecimal()), key=_number)
    if not folders:
        raise ValueError(f"{root} holds no prompt folders; expected {root}/00000/{METADATA} and {SAMPLES}/00000.png")
    return [_read_prompt(folder) for folder in folders]


def write_record(folder: Path, record: Record) -> None:
    """The record of one prompt folder, made with its `samples` folder if absent."""
    (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
    write_whole(folder / METADATA, json.dumps(record).encode())


def write_images(folder: Path, images: Sequence[np.ndarray]) -> None:
    """uint8 [H, W, 3] each -> `samples/00000.png` and following."""
    for number, pixels in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        write_whole(folder / SAMPLES / f"{number:05d}.png", buffer.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """The file and its folders appear; the file complete or not at all, also where two ranks write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def claim(path: Path, identity: dict[str, Any], *, grows: bool = False) -> None:
    """Note in a JSON file what fills its folder.

    Args:
        grows: later claims may add keys.

    Raises:
        ValueError: something else fills it already; the message names the first key that differs.
    """
    found, wanted = read_claim(path), json.loads(json.dumps(identity))
    for key, value in wanted.items():
        if found is None or (grows and key not in found):
            continue
        if key not in found:
            raise ValueError(f"{path} does not say {key} of what fills its folder; delete it or choose another --out")
        if found[key] != value:
            raise ValueError(
                f"{path.parent} was filled with {key} {found[key]!r}, now it is {value!r}; delete it or choose another "
                "--out"
            )
    write_whole(path, (json.dumps({**(found or {}), **wanted}, indent=2) + "\n").encode())


def read_claim(path: Path) -> dict[str, Any] | None:
    """What `claim` noted; None where nobody did. Raises ValueError: not JSON."""
    return read_json(path) if path.exists() else None


def _read_prompt(folder: Path) -> PromptFolder:
    path = folder / METADATA
    if not path.exists():
        raise ValueError(f"{path} does not exist: every prompt folder needs its record")
    record = read_json(path)
    if not ({"tag", "include", "prompt"} <= set(record) and isinstance(record["include"], list)):
        raise ValueError(f"{path} is not a GenEval record: it needs `tag`, `include` and `prompt`")
    names = sorted(path for path in (folder / SAMPLES).glob("*") if IMAGE.match(path.name))
    return PromptFolder(record, tuple(Sample(name, record) for name in names))


def _number(folder: Path) -> tuple[int, str]:
    return int(folder.name), folder.name
