"""No network: what brightness and contrast are computed from."""

from pathlib import Path

import torch
from torch import Tensor


class PixelMoments:
    """Output "moments" [B, 2]: mean and variance of each image's pixels, black 0 and white 1."""

    fingerprint = "mean and variance"

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        """Of any device: the pixels are where they were rounded."""

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        # float64, as the mean of 200,000 float32 squares loses the digits that a variance needs.
        values = pixels.flatten(1).double() / 255
        return {"moments": torch.stack([values.mean(dim=1), values.var(dim=1, correction=0)], dim=1)}
