"""Shards of labelled images: what tokenizers, teachers and classifiers learn from."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import ClassCondition
from fpd_core.config import Classes, Size
from fpd_core.untrusted.images import open_image
from fpd_train.batch import Batch
from fpd_train.data.shards import Shards, place
from fpd_train.errors import DataError

IMAGE_KEYS = ("png", "jpg", "jpeg", "webp")


class ImageShards(Shards):
    """Each sample has an image and a `.cls` label."""

    name: Literal["image_shards"] = "image_shards"
    has_images: ClassVar[bool] = True
    num_classes: Classes = Field(description="Labels must lie in [0, num_classes).")
    image_size: Size = Field(description="Side of the square images; others are refused.")

    def batch(self, samples: list[dict[str, Any]]) -> Batch:
        images = torch.stack([self._image(sample) for sample in samples])
        return Batch(ClassCondition(torch.tensor([self._label(sample) for sample in samples])), images)

    def _image(self, sample: dict[str, Any]) -> Tensor:
        where = place(sample)
        data = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
        if data is None:
            raise DataError(f"{where} has no image ({', '.join(IMAGE_KEYS)}); a dot in the key changes the extension")
        image = np.array(open_image(data, source=f"{where}: image", error=DataError).convert("RGB"))
        if image.shape[:2] != (self.image_size, self.image_size):
            raise DataError(
                f"{where} is {image.shape[1]}x{image.shape[0]}, the config says {self.image_size} pixels a side"
            )
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255

    def _label(self, sample: dict[str, Any]) -> int:
        where = place(sample)
        try:
            label = int(sample["cls"])
        except (KeyError, ValueError):
            raise DataError(f"{where} has no integer label (.cls)") from None
        if not 0 <= label < self.num_classes:
            raise DataError(f"{where} has label {label}, the config allows 0 to {self.num_classes - 1}")
        return label
