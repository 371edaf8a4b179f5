"""The strips of all systems in one picture, for viewers without HTML."""

import base64
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fpd_core.untrusted.images import open_images
from fpd_eval.report.plots import STYLE, png

STRIP_GAP = 6


def sample_grid(strips: Sequence[tuple[str, str]], conditions: Sequence[str]) -> bytes:
    """Rows of (caption, base64 strip) under the conditions, for viewers without HTML."""
    stored = [base64.b64decode(strip) for _, strip in strips]
    pictures = [np.asarray(image.convert("RGB")) for image in open_images(stored)]
    # Systems may make images of different sizes.
    widest = max(picture.shape[1] for picture in pictures)
    pictures = [picture if picture.shape[1] == widest else _widened(picture, widest) for picture in pictures]
    gap = np.full((STRIP_GAP, widest, 3), 255, np.uint8)
    picture = np.concatenate([part for strip in pictures for part in (strip, gap)])
    ends = np.cumsum([len(strip) + STRIP_GAP for strip in pictures])
    middles = [end - STRIP_GAP - len(strip) / 2 for end, strip in zip(ends, pictures, strict=True)]
    cell = picture.shape[1] / len(conditions)
    labels = [textwrap.fill(condition, 18) for condition in conditions]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9, 9 * picture.shape[0] / picture.shape[1]))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_yticks(middles, [caption for caption, _ in strips])
        axes.set_xticks([(i + 0.5) * cell for i in range(len(conditions))], labels, fontsize=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return png(figure)


def _widened(picture: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST))
