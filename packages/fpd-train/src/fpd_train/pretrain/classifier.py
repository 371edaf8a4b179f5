"""Training the small world's evaluator: an image classifier with light augmentation."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import cast, save_folder
from fpd_core.conditioning import ClassCondition
from fpd_core.config import Config, Flag, Whole
from fpd_core.networks.classifier import Classifier, ClassifierConfig, accuracy
from fpd_train.batch import Batch
from fpd_train.methods.interface import AS_THE_RUN_SAYS, Forward, Parts, Report

QUALITY_IMAGES = 10_000


class ClassifierTraining(Config):
    """A classifier whose features and logits serve evaluation."""

    name: Literal["classifier"] = "classifier"
    classifier: ClassifierConfig = Field(ClassifierConfig(), description="Sizes of the network.")
    shift: Whole = Field(2, ge=0, le=64, description="Random translation in pixels, zero filled.")
    flip: Flag = Field(True, description="Mirror images at random.")


class ClassifierMethod:
    """Cross-entropy on translated and flipped images."""

    product = "classifier"
    settings = AS_THE_RUN_SAYS
    drafts_per_condition = 1

    def __init__(self, config: ClassifierTraining, parts: Parts) -> None:
        self._config = config
        self.networks: Mapping[str, nn.Module] = {"classifier": Classifier(config.classifier).to(parts.device)}
        self._shown: Tensor | None = None

    def phases(self, step: int) -> Sequence[str]:
        return ["classifier"]

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        images, labels = _labelled(batch)
        augmented = self._augment(images, generator)
        self._shown = augmented[:30] if self._shown is None else self._shown
        logits = forward[phase](augmented)[1]
        loss = F.cross_entropy(logits, labels)
        hits = (logits.argmax(1) == labels).float().mean()
        return loss, {"loss": loss.item(), "accuracy": hits.item()}

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        shift = self._config.shift
        dy, dx, coin = torch.randint(2 * shift + 1, (3,), generator=generator, device=images.device).tolist()
        side = images.shape[-1]
        moved = F.pad(images, (shift,) * 4)[..., dy : dy + side, dx : dx + side]
        return moved.flip(-1) if self._config.flip and coin > shift else moved

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        if self._shown is None:
            raise RuntimeError("a grid needs one training step first")
        return self._shown

    @torch.no_grad()
    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        scores, seen = [], 0
        while seen < QUALITY_IMAGES:
            images, labels = _labelled(next(validation))
            scores.append((accuracy(averaged["classifier"], images, labels), len(images)))
            seen += len(images)
        return {"accuracy": sum(score * count for score, count in scores) / seen}

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        config = {"classifier": self._config.classifier.model_dump()}
        save_folder(folder, config, cast(averaged["classifier"].state_dict(), torch.float32), card)


def _labelled(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.images is None or not isinstance(batch.condition, ClassCondition):
        raise ValueError("the classifier learns from labelled images; set data.name to image_shards")
    return batch.images, batch.condition.labels
