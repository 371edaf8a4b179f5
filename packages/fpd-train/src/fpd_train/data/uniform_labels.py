"""Class labels drawn uniformly: all that distillation itself needs."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import ClassCondition
from fpd_core.config import Classes, Config, Flag
from fpd_train.batch import Batch
from fpd_train.seeds import seeded


class UniformLabels(Config):
    """No files: labels are uniform over the classes."""

    name: Literal["uniform_labels"] = "uniform_labels"
    has_images: ClassVar[bool] = False
    num_classes: Classes = Field(description="Labels run from 0 to num_classes - 1.")
    balanced: Flag = Field(
        False, description="Every class once before any comes again, in a new order each time; otherwise independent."
    )

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        position, together = start, batch_size * world
        while True:
            if self.balanced:
                labels = self._dealt(seed, position * together, (position + 1) * together)
            else:
                generator = seeded("labels", seed, position)
                labels = torch.randint(self.num_classes, (together,), generator=generator)
            yield Batch(ClassCondition(labels[rank::world]))
            position += 1

    def _dealt(self, seed: int, start: int, stop: int) -> Tensor:
        """Labels start to stop of one endless row of shuffled decks."""
        first, last = start // self.num_classes, -(-stop // self.num_classes)
        decks = [torch.randperm(self.num_classes, generator=seeded("decks", seed, deck)) for deck in range(first, last)]
        return torch.cat(decks)[start - first * self.num_classes :][: stop - start]
