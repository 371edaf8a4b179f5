"""Sets of 8-bit images, batch by batch: made by a system, read from files, or the bundled world's real images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from fpd_core.idx import read_images, read_labels
from fpd_core.places import bundled
from fpd_eval.runtime.cache import hash_file

REAL_PADDING = 2
Rounding = Literal["half_even", "half_up", "truncate"]
ROUNDINGS: dict[Rounding, Callable[[Tensor], Tensor]] = {
    "half_even": lambda images: (images * 255).round(),
    "half_up": lambda images: (images * 255 + 0.5).floor(),  # DiMO: 127.5 x + 128 of x in [-1, 1], truncated
    "truncate": lambda images: (images * 255).floor(),  # ADM's sampling scripts
}
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class ImageSet(Generic[Batch]):
    """Images of a known number. `identity` (JSON) determines every pixel.

    `batch` gives what extractors take of the images from an index on: uint8 [B, 3, H, W], or `Pairs` where captions
    belong to them. B is `batch_size` or, at the end of the set, less. `labels` are classes or groups, int64 [N].
    """

    title: str
    identity: Any
    count: int
    batch_size: int
    batch: Callable[[int], Batch]
    labels: Tensor | None = None
    has_captions: bool = False

    @property
    def starts(self) -> range:
        return range(0, self.count, self.batch_size)

    def batches(self) -> Iterator[Batch]:
        return (self.batch(start) for start in self.starts)


def to_uint8(images: Tensor, rounding: Rounding = "half_even") -> Tensor:
    """[B, 3, H, W] in [0, 1] -> uint8 on the CPU: 255 x, rounded by the named rule, clipped.

    Raises:
        ValueError: an image holds NaN or infinity.
    """
    if not bool(images.isfinite().all()):
        raise ValueError("the system made images with NaN or infinity; its weights are unusable")
    return ROUNDINGS[rounding](images).clamp(0, 255).to("cpu", torch.uint8)


def idx_images(
    path: Path, batch_size: int, limit: int | None = None, *, labels_path: Path | None = None
) -> ImageSet[Tensor]:
    """Grey IDX images, zero-padded by 2 pixels on each side, repeated to three channels; the first `limit` of them.

    Raises:
        ValueError: a file is absent or damaged, they disagree in length, or hold fewer than `limit` images.
    """
    path, labels_path = bundled(path), labels_path and bundled(labels_path)
    margin = (REAL_PADDING, REAL_PADDING)
    pixels = read_images(path)
    if limit is not None and limit > len(pixels):
        raise ValueError(f"{path} holds {len(pixels)} images, the protocol asks for {limit}")
    images = torch.from_numpy(np.pad(pixels[:limit], ((0, 0), margin, margin)))[:, None].expand(-1, 3, -1, -1)
    labels = None if labels_path is None else torch.from_numpy(read_labels(labels_path).astype(np.int64))[:limit]
    if labels is not None and len(images) != len(labels):
        raise ValueError(f"{path} holds {len(images)} images, its label file {len(labels)} labels")
    return ImageSet(
        title="real images",
        identity=[hash_file(path), REAL_PADDING, *([] if limit is None else [limit])],
        count=len(images),
        batch_size=batch_size,
        batch=lambda start: images[start : start + batch_size],
        labels=labels,
    )
