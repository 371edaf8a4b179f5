"""Real images as the teacher's tokens: what distillers that need data learn from."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fpd_core.teachers.teacher import Teacher
from fpd_train.batch import Batch


@runtime_checkable
class Tokenizes(Protocol):
    """A teacher that can also encode."""

    def tokenize(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> tokens [B, L]."""
        ...


def check_encoder(teacher: Teacher, what: str) -> None:
    """Raises ValueError: the teacher's family cannot encode, and `what` asks for it."""
    if not isinstance(teacher, Tokenizes):
        raise ValueError(f"{what}: the {teacher.architecture()['name']} family has no encoder")


@torch.no_grad()
def real_tokens(teacher: Teacher, batch: Batch) -> Tensor:
    """[B, L] of the batch's images.

    Raises:
        ValueError: the batch has no images, or they have another size than the teacher's.
    """
    if batch.images is None:
        raise ValueError("the method learns from real images, and the data brings none")
    side = teacher.image_size
    if batch.images.shape[1:] != (3, side, side):
        height, width = batch.images.shape[-2:]
        raise ValueError(f"the real images are {width}x{height} pixels, the teacher's are {side}x{side}")
    assert isinstance(teacher, Tokenizes)
    return teacher.tokenize(batch.images)
