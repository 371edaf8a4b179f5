"""The trained part: one small spectrally normalised network per depth, which gives a grid of logits."""

from math import log2

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (64, 128, 256, 512)  # of the down blocks, counted from the last one
LAST = 4  # side of the last convolution


class Head(nn.Module):
    """A projected map -> logits.

    Args:
        channels, side: of the map.
        depth: 0 for the shallowest of the four.

    At 256 pixels the heads have 4, 3, 2, 1 down blocks. A map too small for them gets as many as leave the last
    convolution its four pixels: none is padded, and the widths still end at 512.
    """

    def __init__(self, channels: int, side: int, depth: int) -> None:
        super().__init__()
        blocks = min(len(WIDTHS) - depth, int(log2(side / LAST)))
        widths = WIDTHS[len(WIDTHS) - blocks :]
        self.layers = nn.Sequential(
            *(_down(before, after) for before, after in zip((channels, *widths), widths, strict=False)),
            spectral_norm(nn.Conv2d(widths[-1] if widths else channels, 1, LAST, bias=False)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, side, side] -> [N, number of logits]."""
        logits: Tensor = self.layers(maps)
        return logits.flatten(1)


def _down(before: int, after: int) -> nn.Sequential:
    """Half the side."""
    convolution = spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.2))
