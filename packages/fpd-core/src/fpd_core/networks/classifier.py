"""The small world's own classifier: an evaluator that shares nothing with the networks the loss is computed in."""

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.checkpoints import load_network
from fpd_core.config import Classes, Config, Size


class ClassifierConfig(Config):
    """Sizes of the convolutional classifier."""

    num_classes: Classes = Field(10, description="Classes it tells apart.")
    widths: tuple[Size, Size, Size] = Field((32, 64, 128), description="Channels of the convolutional stages.")
    feature_dim: Size = Field(128, description="Width of the features before the last layer.")


class Classifier(nn.Module):
    """Images [B, 3, 32, 32] in [0, 1] -> (features [B, D], logits [B, C])."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        width_in = 1
        for width in config.widths:
            for channels in (width_in, width):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            width_in = width
        self.body = nn.Sequential(*layers)
        self.features = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(width_in * 16, config.feature_dim), nn.ReLU()
        )
        self.head = nn.Linear(config.feature_dim, config.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(self.body(images.mean(1, keepdim=True) * 2 - 1))
        return features, self.head(features)


def load_classifier(folder: str | Path) -> Classifier:
    """A trained classifier, frozen and in eval mode.

    Raises:
        CheckpointError: the folder is absent, damaged or holds another network.
    """
    classifier = load_network(
        Path(folder), "classifier", lambda sizes: Classifier(ClassifierConfig.model_validate(sizes))
    )
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images [B, 3, 32, 32] whose strongest logit is their label [B]."""
    return float((classifier(images)[1].argmax(1) == labels).float().mean())
