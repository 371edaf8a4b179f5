"""Class labels drawn uniformly: all that distillation itself needs."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from fpd_core.conditioning import ClassCondition
from fpd_core.config import Classes, Config
from fpd_train.batch import Batch
from fpd_train.seeds import seeded


class UniformLabels(Config):
    """No files: labels are uniform over the classes."""

    name: Literal["uniform_labels"] = "uniform_labels"
    has_images: ClassVar[bool] = False
    num_classes: Classes = Field(description="Labels run from 0 to num_classes - 1.")

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        position = start
        while True:
            generator = seeded("labels", seed, position)
            labels = torch.randint(self.num_classes, (batch_size * world,), generator=generator)
            yield Batch(ClassCondition(labels[rank::world]))
            position += 1
