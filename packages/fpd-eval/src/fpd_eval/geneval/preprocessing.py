"""How an image reaches the detector's network. Three programs, three answers; which one it was is part of a score.

mmdetection 3.3 resizes in float and pads with zeros after normalising; 2.28, which GenEval's program runs, resizes in
OpenCV's 8-bit arithmetic and pads with grey before; the processor of transformers antialiases and stretches both sides
to multiples of 32.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT_EDGE, LONG_EDGE, DIVISOR, GREY = 800, 1333, 32, 128
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
COEFFICIENT_BITS = 11  # of OpenCV's fixed-point weights

Size = tuple[int, int]
Preprocessing = Literal["mmdet-3.3", "mmdet-2.28", "transformers"]


class Prepared(NamedTuple):
    """The network's input [B, 3, H', W'] float32, and the (height, width) of it that the image fills."""

    inputs: Tensor
    resized: Size


def mmdet_3(pixels: Tensor) -> Prepared:
    """uint8 [B, 3, H, W]: bilinear without antialiasing, not rounded; normalised; padded with 0 right and below."""
    size = fitted_size(size_of(pixels))
    resized = F.interpolate(pixels.float(), size, mode="bilinear", align_corners=False)
    return Prepared(_padded(_normalised(resized), 0.0), size)


def mmdet_2(pixels: Tensor) -> Prepared:
    """uint8 [B, 3, H, W]: OpenCV's bilinear in 8 bits; padded with grey; normalised."""
    size = fitted_size(size_of(pixels))
    return Prepared(_normalised(_padded(opencv_bilinear(pixels, size).float(), float(GREY))), size)


def transformers_processor(pixels: Tensor) -> Prepared:
    """uint8 [B, 3, H, W] through `Mask2FormerImageProcessor` at 800 / 1333: stretched, not padded."""
    from transformers import Mask2FormerImageProcessor

    sizes = {"shortest_edge": SHORT_EDGE, "longest_edge": LONG_EDGE}
    processor = Mask2FormerImageProcessor(size=sizes, size_divisor=DIVISOR)
    inputs: Tensor = processor(images=list(pixels), return_tensors="pt")["pixel_values"]
    return Prepared(inputs, size_of(inputs))


PREPROCESSINGS: dict[Preprocessing, Callable[[Tensor], Prepared]] = {
    "mmdet-3.3": mmdet_3,
    "mmdet-2.28": mmdet_2,
    "transformers": transformers_processor,
}


def fitted_size(size: Size) -> Size:
    """(height, width) scaled, aspect ratio kept, to fit into 1333 x 800 either way round."""
    scale = min(LONG_EDGE / max(size), SHORT_EDGE / min(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def opencv_bilinear(pixels: Tensor, size: Size) -> Tensor:
    """uint8 [B, 3, H, W] -> uint8 [B, 3, *size] as OpenCV's `resize` does it for 8 bits (modules/imgproc, resize.cpp).

    Weights are integers of 11 bits. Rows lose 4 bits and every product 16 before two roundings, so the result is on
    average an eighth of a grey level too dark.
    """
    (height, width), (rows_wanted, columns_wanted) = size_of(pixels), size
    top, bottom, down = _taps(height, rows_wanted, along_row=False)
    left, right, across = _taps(width, columns_wanted, along_row=True)
    whole = 1 << COEFFICIENT_BITS
    source = pixels.to(torch.int32)
    rows = source[..., left] * (whole - across) + source[..., right] * across
    upper, lower = ((rows[..., taps, :] >> 4) for taps in (top, bottom))
    weights = down[:, None]
    blended = ((upper * (whole - weights)) >> 16) + ((lower * weights) >> 16)
    return ((blended + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _taps(have: int, want: int, *, along_row: bool) -> tuple[Tensor, Tensor, Tensor]:
    """First and second neighbour of every target pixel, and the second one's weight: int64, int64, int32 [want]."""
    place = ((torch.arange(want, dtype=torch.float64) + 0.5) * (1 / (want / have)) - 0.5).float()
    left = place.floor()
    share = place - left
    if along_row:  # beyond the first and last column the weight is whole; rows are met twice with parts of it
        share = torch.where((left >= 0) & (left < have - 1), share, 0.0)
    weight = (share * (1 << COEFFICIENT_BITS)).round().to(torch.int32)
    return left.clamp(0, have - 1).long(), (left + 1).clamp(0, have - 1).long(), weight


def _normalised(levels: Tensor) -> Tensor:
    mean, std = (levels.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (levels - mean) / std


def _padded(images: Tensor, value: float) -> Tensor:
    height, width = size_of(images)
    return F.pad(images, (0, -width % DIVISOR, 0, -height % DIVISOR), value=value)


def size_of(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]
