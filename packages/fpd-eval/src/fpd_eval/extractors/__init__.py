"""Feature extractors by name. A new one is a file here and a line in `EXTRACTORS`."""

from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor

from fpd_core.config import nearest
from fpd_eval.protocol import EvaluationProtocol

EXTRACTORS = {
    "classifier": "fpd_eval.extractors.classifier:ClassifierExtractor",
    "efficientnet_lite0": "fpd_eval.extractors.efficientnet_lite0:EfficientNetExtractor",
}


class Extractor(Protocol):
    """Frozen network from images to feature vectors. `fingerprint` is the hash of its weights and options."""

    fingerprint: str

    def __init__(self, protocol: EvaluationProtocol, device: torch.device) -> None: ...

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] in [0, 1] -> named float32 outputs [B, D]."""
        ...


def load_extractor(name: str, protocol: EvaluationProtocol, device: torch.device) -> Extractor:
    """The extractor called `name`, on `device`.

    Raises:
        ConfigError: no such extractor.
        CheckpointError: its weights are absent or damaged.
    """
    if name not in EXTRACTORS:
        raise nearest(name, list(EXTRACTORS), "extractor")
    module, attribute = EXTRACTORS[name].split(":")
    extractor: Extractor = getattr(import_module(module), attribute)(protocol, device)
    return extractor
