"""Shards of images with labels, what tokenizers, teachers and classifiers learn from, or with captions."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import ClassCondition, PromptCondition
from fpd_core.config import Classes, Size
from fpd_core.untrusted.images import open_image
from fpd_train.batch import Batch
from fpd_train.data.bad_samples import BadSample
from fpd_train.data.caption_shards import decoded_caption
from fpd_train.data.shards import Shards

IMAGE_KEYS = ("png", "jpg", "jpeg", "webp")
LabelledImage = tuple[NDArray[np.uint8], int]


class ImageShards(Shards):
    """Each sample has an image and a `.cls` label."""

    name: Literal["image_shards"] = "image_shards"
    has_images: ClassVar[bool] = True
    members: ClassVar[tuple[tuple[str, ...], ...]] = (IMAGE_KEYS, ("cls",))
    busy: ClassVar[bool] = True
    num_classes: Classes = Field(description="Labels must lie in [0, num_classes).")
    image_size: Size = Field(description="Side of the square images; others are refused.")

    def decode(self, members: Sequence[bytes]) -> LabelledImage:
        return decoded_image(members[0], self.image_size), decoded_label(members[1], self.num_classes)

    def collate(self, samples: list[LabelledImage]) -> Batch:
        labels = torch.tensor([label for _, label in samples])
        return Batch(ClassCondition(labels), stacked([image for image, _ in samples]))


class CaptionedImageShards(Shards):
    """Each sample has an image and a `.txt` caption, as img2dataset leaves them."""

    name: Literal["captioned_image_shards"] = "captioned_image_shards"
    has_images: ClassVar[bool] = True
    members: ClassVar[tuple[tuple[str, ...], ...]] = (IMAGE_KEYS, ("txt",))
    busy: ClassVar[bool] = True
    image_size: Size = Field(description="Side of the square images; others are refused.")

    def decode(self, members: Sequence[bytes]) -> tuple[NDArray[np.uint8], str]:
        return decoded_image(members[0], self.image_size), decoded_caption(members[1])

    def collate(self, samples: list[tuple[NDArray[np.uint8], str]]) -> Batch:
        return Batch(
            PromptCondition(tuple(caption for _, caption in samples)), stacked([image for image, _ in samples])
        )


def stacked(images: list[NDArray[np.uint8]]) -> Tensor:
    """[B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float().div_(255)


def decoded_image(content: bytes, side: int) -> NDArray[np.uint8]:
    """[side, side, 3]. Raises BadSample: damaged, or of another size."""
    try:
        image = np.asarray(open_image(content, source="image").convert("RGB"))
    except ValueError as error:
        raise BadSample("undecodable image", str(error)) from None
    if image.shape[:2] != (side, side):
        raise BadSample(
            "image of another size", f"is {image.shape[1]}x{image.shape[0]}, the config says {side} pixels a side"
        )
    return image


def decoded_label(content: bytes, num_classes: int) -> int:
    """Raises BadSample: no integer in [0, num_classes)."""
    try:
        label = int(content)
    except ValueError:
        raise BadSample("no label", "has no integer label (.cls)") from None
    if not 0 <= label < num_classes:
        raise BadSample("label out of range", f"has label {label}, the config allows 0 to {num_classes - 1}")
    return label
