"""The colour of an object: CLIP between ten colour words, on the object cut out of its image."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip import CLIP
from PIL import Image
from torch import Tensor

from fpd_core.hashing import hash_tensors
from fpd_eval.extractors.open_clip_towers import load_open_clip
from fpd_eval.geneval.classes import COLORS
from fpd_eval.geneval.detector import Detection

# Without "-quickgelu" open_clip 3 builds OpenAI's ViT-L-14 with the wrong activation.
MODEL = "ViT-L-14-quickgelu"
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
BACKGROUND = 0x99


class ClipColors:
    """Zero-shot colours (GenEval, with `clip_benchmark`'s averaging of templates).

    Args:
        model: open_clip's CLIP, with the tokenizer of `model_name`.
        batch_size: crops per forward pass.
    """

    def __init__(
        self, model: CLIP, *, model_name: str = MODEL, device: torch.device | str = "cpu", batch_size: int = 32
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device, self.batch_size = torch.device(device), batch_size
        self._tokenize = open_clip.get_tokenizer(model_name)
        self._transform = open_clip.image_transform(
            model.visual.image_size,
            is_train=False,
            mean=open_clip.OPENAI_DATASET_MEAN,
            std=open_clip.OPENAI_DATASET_STD,
        )
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def load(cls, weights: Path, *, device: torch.device | str = "cpu", batch_size: int = 32) -> "ClipColors":
        """From a file of OpenAI's weights. Raises CheckpointError: damaged or of another network."""
        return cls(load_open_clip(MODEL, weights), device=device, batch_size=batch_size)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {"colors": f"CLIP {MODEL}", "colors_weights_sha256": hash_tensors(self.model.state_dict())}

    @torch.no_grad()
    def __call__(self, image: Image.Image, name: str, found: Sequence[Detection]) -> list[str]:
        """The nearest colour word of every object; there is no "unknown".

        Raises:
            ValueError: a mask is absent or of another size than the image.
        """
        if not found:
            return []
        crops = torch.stack([self._transform(cut_out(image, detection)) for detection in found])
        features = [
            F.normalize(self.model.encode_image(batch.to(self.device)), dim=-1)
            for batch in torch.split(crops, self.batch_size)
        ]
        best = (torch.cat(features) @ self._text_features(name).T).argmax(1)
        return [COLORS[index] for index in best.tolist()]

    def _text_features(self, name: str) -> Tensor:
        """[10, D], unit length: per colour the mean of three normalised texts."""
        if name not in self._texts:
            texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
            features = F.normalize(self.model.encode_text(self._tokenize(texts).to(self.device)), dim=-1)
            mean = features.unflatten(0, (len(COLORS), len(TEMPLATES))).mean(1)
            self._texts[name] = F.normalize(mean, dim=-1)
        return self._texts[name]


def cut_out(image: Image.Image, detection: Detection) -> Image.Image:
    """The object on a grey ground (#999), cropped to its box."""
    if detection.mask is None or detection.mask.shape != (image.height, image.width):
        found = None if detection.mask is None else list(detection.mask.shape)
        raise ValueError(f"a colour needs the object's mask of {[image.height, image.width]} pixels, found {found}")
    x0, y0, x1, y1 = map(round, detection[:4])
    if not (0 <= x0 < x1 <= image.width and 0 <= y0 < y1 <= image.height):
        raise ValueError(f"a colour needs a box inside the image, found {list(detection[:4])}")
    pixels = np.where(detection.mask[..., None], np.array(image), np.uint8(BACKGROUND))
    return Image.fromarray(pixels).crop(detection[:4])
