"""Images of uniform noise with random labels: what `--synthetic-weights` puts in the place of image shards."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from fpd_core.conditioning import ClassCondition
from fpd_core.config import Classes, Config, Size
from fpd_train.batch import Batch
from fpd_train.seeds import seeded


class NoiseImages(Config):
    """No files: to prove and profile the path of methods that learn from images."""

    name: Literal["noise_images"] = "noise_images"
    has_images: ClassVar[bool] = True
    num_classes: Classes = Field(description="Labels run from 0 to num_classes - 1.")
    image_size: Size = Field(description="Side of the square images.")

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        position = start
        while True:
            generator = seeded("noise images", seed, position, rank)
            labels = torch.randint(self.num_classes, (batch_size,), generator=generator)
            images = torch.rand(batch_size, 3, self.image_size, self.image_size, generator=generator)
            yield Batch(ClassCondition(labels), images)
            position += 1
