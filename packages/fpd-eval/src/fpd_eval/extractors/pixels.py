"""No network: what brightness and contrast are computed from, and a coarse look at the pixels themselves."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

GRID = 8


class PixelMoments:
    """Output "moments" [B, 2]: mean and variance of each image's pixels, black 0 and white 1."""

    fingerprint = "mean and variance"

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        """Of any device: the pixels are where they were rounded."""

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        # float64, as the mean of 200,000 float32 squares loses the digits that a variance needs.
        values = pixels.flatten(1).double() / 255
        return {"moments": torch.stack([values.mean(dim=1), values.var(dim=1, correction=0)], dim=1)}


class PixelGrid:
    """Output "features" [B, 192]: means of the cells of an 8 x 8 grid, from black -0.5 to white 0.5.

    A feature space that no training touched unless its loss compared pixels.
    """

    fingerprint = f"means of {GRID} x {GRID} cells"

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        """Of any device, as `PixelMoments`."""

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"features": F.adaptive_avg_pool2d(pixels.float() / 255, GRID).flatten(1) - 0.5}
