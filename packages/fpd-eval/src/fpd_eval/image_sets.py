"""Sets of 8-bit images with their classes: what a system made, and the real images it is measured against."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpd_core.idx import read_images, read_labels
from fpd_eval.cache import hash_file
from fpd_eval.protocol import EvaluationProtocol
from fpd_eval.systems import System

REAL_PADDING = 2


@dataclass(frozen=True)
class ImageSet:
    """`identity` (JSON) determines every pixel; `batches` yields uint8 [B, 3, H, W]; `labels` is [N] int64."""

    title: str
    identity: Any
    labels: Tensor
    batches: Callable[[], Iterator[Tensor]]


def to_uint8(images: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1] -> uint8 on the CPU: round(255 x), halves to even, clipped.

    Raises:
        ValueError: an image holds NaN or infinity.
    """
    if not bool(images.isfinite().all()):
        raise ValueError("the system made images with NaN or infinity; its weights are unusable")
    return (images * 255).round().clamp(0, 255).to("cpu", torch.uint8)


def batch_seed(seed: int, start: int) -> int:
    """Seed of the batch whose first image is `start`: any batch can be made without those before it."""
    return int(np.random.SeedSequence([seed, start]).generate_state(1)[0])


def generated_batch(system: System, protocol: EvaluationProtocol, start: int) -> Tensor:
    """Images `start` to `start + batch_size` of the protocol, uint8 [B, 3, H, W]."""
    count = min(protocol.batch_size, protocol.num_images - start)
    return to_uint8(system.images(protocol.condition(start, count), seed=batch_seed(protocol.seed, start)))


def generated_images(system: System, protocol: EvaluationProtocol) -> ImageSet:
    """The protocol's images of one system."""
    fields = {"num_images", "class_names", "labels", "seed", "batch_size", "rounding"}
    return ImageSet(
        title=f"{system.name}, {system.steps} step{'s' if system.steps > 1 else ''}",
        identity={"system": system.fingerprint, "protocol": protocol.model_dump(mode="json", include=fields)},
        labels=protocol.condition(0, protocol.num_images).labels,
        batches=lambda: (
            generated_batch(system, protocol, start) for start in range(0, protocol.num_images, protocol.batch_size)
        ),
    )


def real_images(protocol: EvaluationProtocol) -> ImageSet:
    """The reference: grey IDX images, zero-padded by 2 pixels on each side, repeated to three channels.

    Raises:
        ValueError: a file is absent or damaged, or they disagree in length.
    """
    labels = torch.from_numpy(read_labels(protocol.reference_labels).astype(np.int64))
    grey = read_images(protocol.reference_images)
    if len(grey) != len(labels):
        raise ValueError(f"{protocol.reference_images} holds {len(grey)} images, its label file {len(labels)} labels")
    margin = (REAL_PADDING, REAL_PADDING)
    images = torch.from_numpy(np.pad(grey, ((0, 0), margin, margin)))[:, None].expand(-1, 3, -1, -1)
    return ImageSet(
        title="real images",
        identity=[hash_file(protocol.reference_images), hash_file(protocol.reference_labels), REAL_PADDING],
        labels=labels,
        batches=lambda: iter(torch.split(images, protocol.batch_size)),
    )
