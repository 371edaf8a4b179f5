"""CLIP's image embeddings as a feature space: the one that CMMD is defined in."""

from pathlib import Path

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from fpd_eval.extractors.dinov2 import resized
from fpd_eval.extractors.open_clip_towers import load_open_clip
from fpd_eval.extractors.weights import locate
from fpd_eval.runtime.cache import hash_file, hash_json

# Without "-quickgelu" open_clip 3 builds OpenAI's networks with the wrong activation.
MODEL = "ViT-L-14-336-quickgelu"


class ClipEmbeddings:
    """Output "features" [B, 768], not normalised, of images stretched to 336 pixels by Pillow's bicubic filter.

    CMMD's own program (google-research: cmmd) resizes with TensorFlow's bicubic filter, so its last digits are others.

    Raises:
        CheckpointError: the weights are absent, damaged or of another network.
    """

    def __init__(self, device: torch.device, weights: Path | None = None, architecture: str = MODEL) -> None:
        path = locate("clip_vitl14_336", weights)
        self._network = load_open_clip(architecture, path).eval().requires_grad_(False).to(device)
        self._size, self._device = self._network.visual.image_size[0], device
        self._mean, self._std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        )
        self.fingerprint = hash_json([architecture, self._size, hash_file(path)])

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        images = resized(pixels, self._size).to(self._device).float() / 255
        return {"features": self._network.encode_image((images - self._mean) / self._std).float()}
