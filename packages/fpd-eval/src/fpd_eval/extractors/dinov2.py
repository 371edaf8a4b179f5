"""DINOv2 ViT-L/14 as `layer6ai-labs/dgm-eval` uses it for FDD (Stein et al. 2023, arXiv:2306.04675)."""

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fpd_core.checkpoints import load_strict
from fpd_core.containers import read_public
from fpd_eval.extractors.weights import locate
from fpd_eval.runtime.cache import hash_file, hash_json

IMAGE_SIZE, GRID = 224, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNUSED = ("mask_token",)


class Dinov2Extractor:
    """Output "features" [B, 1024]: the layer-normed class token of images resized to 224 by Pillow's bicubic filter.

    timm builds the network. The position embedding is not timm's: see `resize_positions`.
    """

    def __init__(self, device: torch.device, weights: Path | None = None, architecture: str = "large") -> None:
        path = locate("dinov2_vitl14", weights)
        state = {name: value for name, value in read_public(path).items() if name not in UNUSED}
        if "pos_embed" in state:
            state["pos_embed"] = resize_positions(state["pos_embed"].float(), GRID)
        model = f"vit_{architecture}_patch14_dinov2"
        self.network = timm.create_model(model, pretrained=False, img_size=IMAGE_SIZE, num_classes=0)
        load_strict(self.network, state, str(path))
        self.network.eval().requires_grad_(False).to(device)
        self.device, self.fingerprint = device, hash_json([model, IMAGE_SIZE, hash_file(path)])

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        images = resized(pixels).to(self.device).float() / 255
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        return {"features": self.network((images - mean) / std)}


def resized(pixels: Tensor, size: int = IMAGE_SIZE) -> Tensor:
    """uint8 [B, 3, H, W] -> [B, 3, size, size] by Pillow bicubic, as 8-bit images, the aspect ratio not kept."""
    pictures = (Image.fromarray(image.numpy()) for image in pixels.permute(0, 2, 3, 1).cpu().contiguous())
    arrays = [np.array(picture.resize((size, size), Image.Resampling.BICUBIC)) for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def resize_positions(positions: Tensor, grid: int) -> Tensor:
    """[1, 1 + n², D] -> [1, 1 + grid², D] by the rule of DINOv2's own code, which timm and transformers do not share.

    Bicubic without antialiasing, sampled at the scale (grid + 0.1) / n rather than at grid / n.
    """
    own = round((positions.shape[1] - 1) ** 0.5)
    if own == grid:
        return positions
    cells = positions[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / own
    cells = F.interpolate(cells, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([positions[:, :1], cells.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
