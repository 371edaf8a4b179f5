"""The small world's own classifier: features, and logits for the inception score and class accuracy."""

import torch
from torch import Tensor

from fpd_core.networks.classifier import load_classifier
from fpd_eval.cache import hash_tensors
from fpd_eval.protocol import EvaluationProtocol


class ClassifierExtractor:
    """Outputs "features" [B, D], the input of the last layer, and "logits" [B, C]."""

    def __init__(self, protocol: EvaluationProtocol, device: torch.device) -> None:
        self.network = load_classifier(protocol.classifier).to(device)
        self.device = device
        self.fingerprint = hash_tensors(self.network.state_dict())

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        features, logits = self.network(images.to(self.device))
        return {"features": features, "logits": logits}
