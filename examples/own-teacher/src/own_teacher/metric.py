"""How far a picture is from a mosaic: the spread of pixels within its squares, 0 for pictures of this family."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpd_eval.bench.registry import Metric, Side, Values
from fpd_eval.report.columns import Column
from own_teacher.teacher import PIXELS_PER_TOKEN


class Squares:
    """The extractor: no network, so no weights."""

    fingerprint = "own_teacher.metric.Squares 1"  # part of the key of cached numbers: change it when the code changes

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        self.device = device

    def __call__(self, images: Any, /) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> "spread" [B, 1], the mean standard deviation within squares, in 8-bit steps."""
        side = PIXELS_PER_TOKEN
        squares = images.to(self.device).float().unfold(2, side, side).unfold(3, side, side)
        return {"spread": squares.flatten(4).std(dim=-1, correction=0).mean(dim=(1, 2, 3))[:, None]}


def _spread(real: Side, fake: Side, protocol: Any) -> Values:
    return {"square_spread": float(fake.outputs["spread"].mean())}


SPREAD = Metric("squares", _spread)
COLUMN = Column("Square spread", "Spread {}", 2, "lower")
