"""From scenes to pixels: sprites in natural colours or tinted by their luminance, over two flat stripes."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpd_core.checkpoints import CheckpointError
from fpd_core.places import bundled
from fpd_core.scenes.layouts import CELL, IMAGE_SIZE, SPRITE_SIZE, Scene
from fpd_core.scenes.vocabulary import COLORS, OBJECTS, TINTED
from fpd_core.untrusted.images import open_image

SPRITES = Path("assets/scenes/sprites")
SHEET = "sprites.png"
SHEET_COLUMNS = 5
HORIZON = 6 * CELL

Floats = NDArray[np.float32]

# Sky and ground.
BACKGROUNDS = (
    ((0.66, 0.82, 0.93), (0.50, 0.70, 0.44)),
    ((0.96, 0.85, 0.72), (0.72, 0.60, 0.48)),
    ((0.82, 0.82, 0.86), (0.58, 0.59, 0.64)),
)
# Dark, main and light tone of GenEval's colours, in the order of `COLORS`.
RAMPS = np.array(
    [
        ((0.35, 0.00, 0.02), (0.86, 0.08, 0.10), (1.00, 0.62, 0.58)),
        ((0.48, 0.20, 0.00), (1.00, 0.52, 0.02), (1.00, 0.82, 0.52)),
        ((0.50, 0.40, 0.00), (0.98, 0.86, 0.06), (1.00, 0.97, 0.66)),
        ((0.00, 0.24, 0.05), (0.10, 0.62, 0.18), (0.62, 0.92, 0.60)),
        ((0.00, 0.06, 0.38), (0.08, 0.30, 0.90), (0.60, 0.78, 1.00)),
        ((0.18, 0.02, 0.30), (0.52, 0.14, 0.74), (0.84, 0.64, 0.96)),
        ((0.55, 0.12, 0.32), (1.00, 0.48, 0.72), (1.00, 0.84, 0.92)),
        ((0.18, 0.08, 0.02), (0.47, 0.26, 0.11), (0.78, 0.60, 0.44)),
        ((0.00, 0.00, 0.00), (0.12, 0.12, 0.13), (0.45, 0.45, 0.48)),
        ((0.55, 0.55, 0.57), (0.92, 0.92, 0.93), (1.00, 1.00, 1.00)),
    ],
    dtype=np.float32,
)
LUMINANCE = np.array((0.299, 0.587, 0.114), dtype=np.float32)
MEAN_LUMINANCE = 0.52


class Drawing:
    """Draws scenes from the sprite sheet of a folder.

    Raises:
        CheckpointError: the sheet is absent or not an image of the right size.
    """

    def __init__(self, folder: Path = SPRITES) -> None:
        natural = read_sheet(bundled(folder / SHEET))
        # Straight colour [24, 24, 3] and alpha [24, 24, 1] of every look.
        self._looks: dict[tuple[str, str | None], tuple[Floats, Floats]] = {}
        for name, sprite in zip(OBJECTS, natural, strict=True):
            color, alpha = sprite[..., :3], sprite[..., 3:]
            self._looks[name, None] = color * alpha, 1 - alpha
            for index, word in enumerate(COLORS if name in TINTED else ()):
                self._looks[name, word] = tint(color, alpha, RAMPS[index]) * alpha, 1 - alpha
        self._grounds = [_stripes(*pair) for pair in BACKGROUNDS]

    def __call__(self, scene: Scene) -> Floats:
        """[3, 64, 64] in [0, 1]."""
        image = self._grounds[scene.background].copy()
        for placed in scene.objects:
            x0, y0, x1, y1 = placed.box
            premultiplied, transparency = self._looks[placed.name, placed.color]
            image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * transparency + premultiplied
        return image.transpose(2, 0, 1)


def tint(color: Floats, alpha: Floats, ramp: Floats) -> Floats:
    """Recolour by luminance: stretched to [0, 1] over the visible part, brought to one mean, mapped onto three tones.

    Args:
        color: [H, W, 3] straight colour; alpha: [H, W, 1].
        ramp: [3, 3], dark, main and light tone.
    """
    grey = color @ LUMINANCE
    visible = grey[alpha[..., 0] > 0.5]
    low, high = np.quantile(visible, (0.02, 0.98))
    grey = np.clip((grey - low) / (high - low), 1e-3, 1)
    mean = float(np.clip((visible - low) / (high - low), 1e-3, 1).mean())
    grey = grey ** (np.log(MEAN_LUMINANCE) / np.log(mean))
    places = np.array((0, 0.5, 1))
    tones = [np.interp(grey, places, ramp[:, channel]) for channel in range(3)]
    return np.stack(tones, axis=-1).astype(np.float32)


def read_sheet(path: Path) -> Floats:
    """Sprites [20, 24, 24, 4], straight colour and alpha in [0, 1]. Raises CheckpointError: not such a sheet."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; run from the repository's root")
    image = open_image(path, error=CheckpointError)
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / np.float32(255)
    rows = len(OBJECTS) // SHEET_COLUMNS
    if pixels.shape != (rows * SPRITE_SIZE, SHEET_COLUMNS * SPRITE_SIZE, 4):
        raise CheckpointError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, not a sheet of {len(OBJECTS)}")
    grid = pixels.reshape(rows, SPRITE_SIZE, SHEET_COLUMNS, SPRITE_SIZE, 4).swapaxes(1, 2)
    return grid.reshape(-1, SPRITE_SIZE, SPRITE_SIZE, 4)


def _stripes(sky: tuple[float, ...], ground: tuple[float, ...]) -> Floats:
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32)
    image[:HORIZON], image[HORIZON:] = sky, ground
    return image
