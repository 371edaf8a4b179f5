"""Networks fed in batches as large as the GPU's memory allows."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Result = TypeVar("Result")


def in_batches(work: Callable[[slice], Result], count: int, batch_size: int) -> Iterator[Result]:
    """`work` of consecutive slices of range(count), in order; slices halve for good where memory runs out.

    Raises:
        ValueError: not even one image fits.
    """
    start = 0
    while start < count:
        part = slice(start, min(start + batch_size, count))
        try:
            result = work(part)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise ValueError("not one image fits the GPU's memory beside the networks; use --device cpu") from None
            batch_size //= 2
            continue
        yield result
        start = part.stop
