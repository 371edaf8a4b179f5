"""Inception features of the COCO FID that Di[M]O's table 8 prints (package T2IBenchmark): a variant of its own."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fpd_eval.extractors.inception import FidelityInception
from fpd_eval.images.squares import centre_square
from fpd_eval.runtime.cache import hash_json

IMAGE_SIZE = 299
BODY = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


class CocoInception:
    """Centre square, Pillow bicubic to 299 pixels rounded to 8 bits, 2 x / 255 - 1, pytorch-fid's network.

    Output "features" [B, 2048]. pytorch-fid's file `pt_inception-2015-12-05-6726825d.pth` serves as well as
    torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`: the checksum in their names is one.

    Raises:
        CheckpointError: the weights are absent, damaged or of another network.
    """

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        whole = FidelityInception(device, weights)
        self.network = nn.Sequential(*(whole.network.get_submodule(name) for name in BODY))
        self.device, self.fingerprint = device, hash_json(["coco30k", whole.fingerprint])

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        resized = torch.stack(
            [coco_resize(Image.fromarray(image.numpy())) for image in pixels.permute(0, 2, 3, 1).cpu()]
        )
        features: Tensor = self.network(resized.to(self.device) / 255 * 2 - 1)
        return {"features": features.flatten(1)}


def coco_resize(image: Image.Image) -> Tensor:
    """RGB image of any size -> uint8 [3, 299, 299]: the central square, bicubic with antialiasing, rounded."""
    small = centre_square(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)
