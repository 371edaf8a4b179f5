"""What a data stream yields and a method consumes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fpd_core.conditioning import Condition


@dataclass(frozen=True)
class Batch:
    """Conditions of one micro-batch; `images` [B, 3, H, W] in [0, 1] where the source has any."""

    condition: Condition
    images: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.condition.to(device), None if self.images is None else self.images.to(device))
