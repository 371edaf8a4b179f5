"""Feature extractors by name. A new one is a file here and a line in `EXTRACTORS`."""

from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fpd_core.config import nearest

EXTRACTORS = {
    "classifier": "fpd_eval.extractors.classifier:ClassifierExtractor",
    "efficientnet_lite0": "fpd_eval.extractors.efficientnet_lite0:EfficientNetExtractor",
    "inception_fidelity": "fpd_eval.extractors.inception:FidelityInception",
    "inception_tensorflow": "fpd_eval.extractors.inception:TensorflowInception",
    "inception_clean": "fpd_eval.extractors.inception:CleanInception",
    "inception_coco": "fpd_eval.extractors.inception_coco:CocoInception",
    "dinov2_vitl14": "fpd_eval.extractors.dinov2:Dinov2Extractor",
}


class Extractor(Protocol):
    """Frozen network from images to feature vectors. `fingerprint` is the hash of its weights and options.

    `weights` are looked at instead of the extractor's place in `EVAL_WEIGHTS`.
    """

    fingerprint: str

    def __init__(self, device: torch.device, weights: Path | None = None) -> None: ...

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> named float32 outputs [B, D]."""
        ...


def load_extractor(name: str, device: torch.device, weights: Path | None = None) -> Extractor:
    """The extractor called `name`, on `device`.

    Raises:
        ConfigError: no such extractor.
        CheckpointError: its weights are absent or damaged.
    """
    if name not in EXTRACTORS:
        raise nearest(name, list(EXTRACTORS), "extractor")
    module, attribute = EXTRACTORS[name].split(":")
    extractor: Extractor = getattr(import_module(module), attribute)(device, weights)
    return extractor
