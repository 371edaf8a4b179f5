"""The frozen random projection: channels mixed within a depth (CCM), then from deep to shallow across depths (CSM).

Weights are PyTorch's default initialisation from a fixed seed, so every run and every rank has the same ones; they are
ordinary weights of the discriminator and therefore in its checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.discriminator.features import Taps

WIDTHS = (64, 128, 256, 512)  # after CCM, shallow to deep
MIXED = (64, 64, 128, 256)  # after CSM
SEED = 20_605


class Projection(nn.Module):
    """Four maps of a branch -> four of 64, 64, 128, 256 channels and twice the side."""

    def __init__(self, taps: Taps) -> None:
        super().__init__()
        self.pyramid = _Pyramid(taps.channels[0]) if taps.are_tokens else None
        channels, self.sides = taps.channels, taps.sides
        if self.pyramid is not None:
            channels, self.sides = self.pyramid.channels, self.pyramid.sides(taps.sides[0])
        self.within = nn.ModuleList(nn.Conv2d(c, width, 1) for c, width in zip(channels, WIDTHS, strict=True))
        self.across = nn.ModuleList(nn.Conv2d(width, mixed, 1) for width, mixed in zip(WIDTHS, MIXED, strict=True))
        self.sides = tuple(2 * side for side in self.sides)
        _draw(self, torch.Generator().manual_seed(SEED))
        self.requires_grad_(False)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Shallow to deep, in and out; differentiable in the maps."""
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        maps = [mix(one) for mix, one in zip(self.within, maps, strict=True)]
        mixed: list[Tensor] = []
        for one, mix in zip(reversed(maps), reversed(self.across), strict=True):
            joined = one + mixed[-1] if mixed else one
            doubled = F.interpolate(joined, scale_factor=2, mode="bilinear", align_corners=True)
            mixed.append(mix(doubled))
        return mixed[::-1]


class _Pyramid(nn.Module):
    """A transformer's four maps of one side -> sides x4, x2, x1, x1/2, as a convolutional network has them."""

    channels = (96, 192, 384, 768)

    def __init__(self, width: int) -> None:
        super().__init__()
        a, b, c, d = self.channels
        self.levels = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(width, a, 1), nn.ConvTranspose2d(a, a, 4, stride=4)),
                nn.Sequential(nn.Conv2d(width, b, 1), nn.ConvTranspose2d(b, b, 2, stride=2)),
                nn.Conv2d(width, c, 1),
                nn.Sequential(nn.Conv2d(width, d, 1), nn.Conv2d(d, d, 3, stride=2, padding=1)),
            ]
        )

    def sides(self, side: int) -> tuple[int, ...]:
        return 4 * side, 2 * side, side, (side + 1) // 2

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [level(one) for level, one in zip(self.levels, maps, strict=True)]


@torch.no_grad()
def _draw(module: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's default initialisation of convolutions: weight and bias in ±1/√fan_in."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            bound = part.weight[0].numel() ** -0.5
            for parameter in part.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
