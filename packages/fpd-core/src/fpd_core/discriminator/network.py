"""Projection and heads of every branch: the part of the discriminator that is trained and saved."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fpd_core.discriminator.features import Taps
from fpd_core.discriminator.heads import Head
from fpd_core.discriminator.projection import MIXED, Projection


class _Branch(nn.Module):
    def __init__(self, taps: Taps) -> None:
        super().__init__()
        self.projection = Projection(taps)
        sizes = zip(MIXED, self.projection.sides, strict=True)
        self.heads = nn.ModuleList(Head(channels, side, depth) for depth, (channels, side) in enumerate(sizes))

    def forward(self, maps: list[Tensor]) -> Tensor:
        projected = self.projection(maps)
        return torch.cat([head(one) for head, one in zip(self.heads, projected, strict=True)], dim=1)


class Discriminator(nn.Module):
    """Unconditional. Only the heads are trained.

    Real and fake images go through in passes of their own and in train mode, the generator's pass too: batch norm then
    normalises each by its own statistics, as in StyleGAN-XL.
    """

    def __init__(self, taps: Sequence[Taps]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_Branch(one) for one in taps)

    def forward(self, maps: list[list[Tensor]]) -> list[Tensor]:
        """Maps of `Features` -> logits [N, n] of every branch, the four heads one after another."""
        return [branch(one) for branch, one in zip(self.branches, maps, strict=True)]
