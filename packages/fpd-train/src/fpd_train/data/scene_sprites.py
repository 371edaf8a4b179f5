"""The sprite sheet of the scenes, made from the emoji pictures of the npm package `emoji-datasource-google`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fpd_core.scenes.draw import SHEET_COLUMNS
from fpd_core.scenes.layouts import SPRITE_SIZE
from fpd_core.scenes.vocabulary import OBJECTS
from fpd_core.untrusted.images import open_image
from fpd_train.errors import DataError

CODE_POINTS = dict(
    zip(
        OBJECTS,
        (
            *("1f697", "2708-fe0f", "1f68d", "26f5", "1f426", "1f431", "1f436", "1f418", "2602-fe0f", "1f392"),
            *("2615", "1f34e", "1f34c", "1f355", "1f369", "1f382", "1fa91", "1f4fa", "23f0", "1fab4"),
        ),
        strict=True,
    )
)


def write_sheet(pictures: Path, sheet: Path) -> None:
    """Scale the pictures in use to 24 pixels and write them as one PNG, five to a row, in the order of `OBJECTS`.

    Args:
        pictures: `img/google/64` of the unpacked package.

    Raises:
        DataError: a picture is absent or damaged.
    """
    sprites = [_shrunk(pictures / f"{code}.png") for code in CODE_POINTS.values()]
    rows = [np.concatenate(sprites[i : i + SHEET_COLUMNS], axis=1) for i in range(0, len(sprites), SHEET_COLUMNS)]
    sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(sheet, optimize=True)


def _shrunk(path: Path) -> NDArray[np.uint8]:
    """Resampled with premultiplied alpha, so that no colour of invisible pixels bleeds in; overshoot is clipped."""
    pixels = np.asarray(open_image(path, error=DataError).convert("RGBA"), dtype=np.float32) / 255
    pixels = pixels.copy()
    pixels[..., :3] *= pixels[..., 3:]
    size = (SPRITE_SIZE, SPRITE_SIZE)
    channels = [Image.fromarray(pixels[..., c]).resize(size, Image.Resampling.LANCZOS) for c in range(4)]
    small = np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0, 1)
    alpha = small[..., 3:]
    color = np.clip(small[..., :3] / np.maximum(alpha, 1e-6), 0, 1) * (alpha > 0)
    straight = np.concatenate([color, alpha], axis=-1)
    return np.round(straight * 255).astype(np.uint8)
