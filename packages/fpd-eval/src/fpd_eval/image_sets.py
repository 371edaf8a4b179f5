"""Sets of 8-bit images: what a system made, and the real images of the small world. Files are read in `image_files`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from fpd_core.conditioning import ClassCondition
from fpd_core.config import Config
from fpd_core.idx import read_images, read_labels
from fpd_eval.cache import hash_file
from fpd_eval.systems import System

REAL_PADDING = 2
Rounding = Literal["half_even", "half_up", "truncate"]
ROUNDINGS: dict[Rounding, Callable[[Tensor], Tensor]] = {
    "half_even": lambda images: (images * 255).round(),
    "half_up": lambda images: (images * 255 + 0.5).floor(),  # DiMO: 127.5 x + 128 of x in [-1, 1], truncated
    "truncate": lambda images: (images * 255).floor(),  # ADM's sampling scripts
}


class Plan(Config):
    """Which images a system makes. Image i is a function of this plan and the system alone, not of ranks or resumes."""

    num_images: PositiveInt
    num_classes: PositiveInt = Field(description="Image i shows class i mod this.")
    batch_size: PositiveInt = Field(description="Images per call; other batches draw other images.")
    seed: int = Field(0, ge=0, description="Every batch draws from (seed, index of its first image).")
    rounding: Rounding = Field("half_even", description="How 255 x becomes an integer, before clipping to [0, 255].")

    @model_validator(mode="after")
    def _balanced(self) -> "Plan":
        if self.num_images % self.num_classes:
            raise ValueError(f"num_images must be a multiple of the {self.num_classes} classes, got {self.num_images}")
        return self

    def condition(self, start: int, count: int) -> ClassCondition:
        """The conditions of images `start` to `start + count`."""
        return ClassCondition(torch.arange(start, start + count) % self.num_classes)


@dataclass(frozen=True)
class ImageSet:
    """`identity` (JSON) determines every pixel; `batch` gives the uint8 [B, 3, H, W] images from an index on, B being
    `batch_size` or, at the end of the set, less."""

    title: str
    identity: Any
    count: int
    batch_size: int
    batch: Callable[[int], Tensor]

    @property
    def starts(self) -> range:
        return range(0, self.count, self.batch_size)

    def batches(self) -> Iterator[Tensor]:
        return (self.batch(start) for start in self.starts)


@dataclass(frozen=True)
class LabelledImages(ImageSet):
    """An image set with classes [N] int64."""

    labels: Tensor


def to_uint8(images: Tensor, rounding: Rounding = "half_even") -> Tensor:
    """[B, 3, H, W] in [0, 1] -> uint8 on the CPU: 255 x, rounded by the named rule, clipped.

    Raises:
        ValueError: an image holds NaN or infinity.
    """
    if not bool(images.isfinite().all()):
        raise ValueError("the system made images with NaN or infinity; its weights are unusable")
    return ROUNDINGS[rounding](images).clamp(0, 255).to("cpu", torch.uint8)


def batch_seed(seed: int, start: int) -> int:
    """Seed of the batch whose first image is `start`: any batch can be made without those before it."""
    return int(np.random.SeedSequence([seed, start]).generate_state(1)[0])


def generated_batch(system: System, plan: Plan, start: int) -> Tensor:
    """Images `start` to `start + batch_size` of the plan, uint8 [B, 3, H, W]."""
    count = min(plan.batch_size, plan.num_images - start)
    return to_uint8(system.images(plan.condition(start, count), seed=batch_seed(plan.seed, start)), plan.rounding)


def generated_images(system: System, plan: Plan) -> LabelledImages:
    """The plan's images of one system."""
    return LabelledImages(
        title=f"{system.name}, {system.steps} step{'s' if system.steps > 1 else ''}",
        identity={"system": system.fingerprint, "plan": plan.model_dump()},
        count=plan.num_images,
        batch_size=plan.batch_size,
        batch=lambda start: generated_batch(system, plan, start),
        labels=plan.condition(0, plan.num_images).labels,
    )


def idx_images(path: Path, batch_size: int, limit: int | None = None) -> ImageSet:
    """Grey IDX images, zero-padded by 2 pixels on each side, repeated to three channels; the first `limit` of them.

    Raises:
        ValueError: the file is absent or damaged, or holds fewer than `limit` images.
    """
    margin = (REAL_PADDING, REAL_PADDING)
    pixels = read_images(path)
    if limit is not None and limit > len(pixels):
        raise ValueError(f"{path} holds {len(pixels)} images, the protocol asks for {limit}")
    images = torch.from_numpy(np.pad(pixels[:limit], ((0, 0), margin, margin)))[:, None].expand(-1, 3, -1, -1)
    return ImageSet(
        title="real images",
        identity=[hash_file(path), REAL_PADDING, *([] if limit is None else [limit])],
        count=len(images),
        batch_size=batch_size,
        batch=lambda start: images[start : start + batch_size],
    )


def labelled_idx_images(path: Path, labels_path: Path, batch_size: int, limit: int | None = None) -> LabelledImages:
    """`idx_images` with their classes.

    Raises:
        ValueError: a file is absent or damaged, or they disagree in length.
    """
    labels = torch.from_numpy(read_labels(labels_path).astype(np.int64))[:limit]
    images = idx_images(path, batch_size, limit)
    if images.count != len(labels):
        raise ValueError(f"{path} holds {images.count} images, its label file {len(labels)} labels")
    return LabelledImages(images.title, images.identity, images.count, batch_size, images.batch, labels)
