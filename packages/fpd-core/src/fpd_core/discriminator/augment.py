"""Differentiable augmentation: colour, translation, cutout, drawn anew for every image."""

import torch
from torch import Tensor

from fpd_core.draws import integers, uniform

SHIFT, CUTOUT = 0.125, 0.2  # of the image's side


def augmented(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """[B, 3, H, W] in [-1, 1] -> the same shape, differentiable; beyond [-1, 1] where the colours were changed."""
    return _cut_out(_translated(_recoloured(images, generator), generator), generator)


def _recoloured(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Brightness + U(-0.5, 0.5); distance from the grey image x U(0, 2), from the mean colour x U(0.5, 1.5)."""
    brightness, saturation, contrast = uniform(
        3, len(images), 1, 1, 1, generator=generator, device=images.device, batch=1
    )
    images = images + brightness - 0.5
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * 2 * saturation
    mean = images.mean((1, 2, 3), keepdim=True)
    recoloured: Tensor = mean + (images - mean) * (contrast + 0.5)
    return recoloured


def _translated(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Moved by whole pixels up to an eighth of the side each way; zeros (grey) come in."""
    for axis in (2, 3):
        side = images.shape[axis]
        most = round(side * SHIFT)
        shift = integers(-most, most + 1, len(images), 1, generator=generator, device=images.device)
        source = torch.arange(side, device=images.device) + shift
        shape = [len(images), 1, 1, 1]
        shape[axis] = side
        is_inside = ((source >= 0) & (source < side)).view(shape)
        images = images.gather(axis, source.clamp(0, side - 1).view(shape).expand_as(images)) * is_inside
    return images


def _cut_out(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """One square a fifth of the side wide, its centre anywhere, becomes zero (grey)."""
    outside = torch.zeros(len(images), 1, 1, 1, dtype=torch.bool, device=images.device)
    for axis in (2, 3):
        side = images.shape[axis]
        width = round(side * CUTOUT)
        centre = integers(0, side + 1 - width % 2, len(images), 1, generator=generator, device=images.device)
        distance = torch.arange(side, device=images.device) - (centre - width // 2)
        shape = [len(images), 1, 1, 1]
        shape[axis] = side
        outside = outside | ((distance < 0) | (distance >= width)).view(shape)
    return images * outside
