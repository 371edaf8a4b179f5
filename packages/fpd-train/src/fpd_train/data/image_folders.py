"""Pictures in a folder per class, as ImageNet comes, as WebDataset samples: `.jpg` or `.png`, and `.cls`."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from PIL import Image

from fpd_core.untrusted import shown
from fpd_core.untrusted.images import open_image
from fpd_train.data.bad_samples import LOG
from fpd_train.data.image_shards import IMAGE_KEYS
from fpd_train.errors import DataError

JPEG_QUALITY = 95


def folder_samples(root: Path, size: int, kind: Literal["jpg", "png"]) -> Iterator[dict[str, object]]:
    """One sample a picture; classes are numbered in the order of their folders' names. A damaged picture is logged.

    The classes take turns, so that every shard holds all of them; pictures become squares of `size` pixels: the shorter
    side is resized to it, the middle is kept.

    Raises:
        DataError: no folder of pictures in `root`, or all are damaged.
    """
    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    pictures = [sorted(one for one in path.rglob("*") if one.suffix.lower()[1:] in IMAGE_KEYS) for path in classes]
    if not any(pictures):
        raise DataError(f"{root} holds no folders of pictures ({', '.join(IMAGE_KEYS)}), one for each class")
    written = 0
    for turn in range(max(map(len, pictures))):
        for label, own in enumerate(pictures):
            if turn < len(own):
                try:
                    image = open_image(own[turn], error=DataError).convert("RGB")
                except DataError as error:
                    LOG.warning("left out: %s", error)
                    continue
                yield {"__key__": f"{label:04d}-{turn:06d}", kind: _encoded(image, size, kind), "cls": b"%d" % label}
                written += 1
    if not written:
        raise DataError(f"no picture in {shown(root)} can be decoded")


def class_names(root: Path) -> list[str]:
    """Names of the folders, by label."""
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def _encoded(image: Image.Image, size: int, kind: str) -> bytes:
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    left, top = (width - size) // 2, (height - size) // 2
    buffer = io.BytesIO()
    square = image.crop((left, top, left + size, top + size))
    square.save(buffer, format="jpeg" if kind == "jpg" else "png", quality=JPEG_QUALITY)
    return buffer.getvalue()
