"""The small world's own classifier: features, and logits for the inception score and class accuracy."""

from pathlib import Path

import torch
from torch import Tensor

from fpd_core.hashing import hash_tensors
from fpd_core.networks.classifier import load_classifier
from fpd_eval.extractors.weights import locate


class ClassifierExtractor:
    """Outputs "features" [B, D], the input of the last layer, and "logits" [B, C]."""

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        self.network = load_classifier(locate("fashion_classifier", weights)).to(device)
        self.device = device
        self.fingerprint = hash_tensors(self.network.state_dict())

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        features, logits = self.network(pixels.to(self.device).float() / 255)
        return {"features": features, "logits": logits}
