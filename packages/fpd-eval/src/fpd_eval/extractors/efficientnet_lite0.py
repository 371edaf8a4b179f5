"""EfficientNet-Lite0 with ImageNet weights: a general feature space that never saw the small world."""

from pathlib import Path

import torch
from torch import Tensor

from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0
from fpd_core.hashing import hash_tensors
from fpd_eval.runtime.cache import hash_json

IMAGE_SIZE = 64


class EfficientNetExtractor:
    """Output "features" [B, 1280], pooled, of images resized to 64 pixels."""

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        if weights is not None:
            raise ValueError("efficientnet_lite0 comes with its own package; it takes no other weights")
        self.network = EfficientNetLite0(blocks=(1, 2, 3), image_size=IMAGE_SIZE).to(device)
        self.device = device
        self.fingerprint = hash_json([hash_tensors(self.network.state_dict()), IMAGE_SIZE])

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"features": self.network.pooled(pixels.to(self.device).float() / 255)}
