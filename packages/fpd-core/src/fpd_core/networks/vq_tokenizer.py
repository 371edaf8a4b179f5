"""Convolutional VQ tokenizer of the bundled small world: images <-> an 8x8 grid of codes."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import load_network
from fpd_core.config import Codes, Config, Size

_Width = Annotated[Size, Field(multiple_of=8)]  # group norms have eight groups


class VqTokenizerConfig(Config):
    """Sizes of the tokenizer."""

    codebook_size: Codes = Field(256, description="K, number of codes.")
    code_dim: Size = Field(16, description="d, channels per code.")
    widths: tuple[_Width, _Width, _Width] = Field(
        (24, 48, 96), description="Channels at full, half and quarter resolution, multiples of 8."
    )


class ResBlock(nn.Module):
    """Pre-norm residual block; the shortcut is a 1x1 convolution where the width changes."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.shortcut = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))
        return out


class VqTokenizer(nn.Module):
    """Grey images [B, 3, 32, 32] in [0, 1] to L = 64 codes (row-major 8x8) and back."""

    def __init__(self, config: VqTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        full, half, quarter = config.widths
        self.encoder = nn.Sequential(
            nn.Conv2d(1, full, 3, padding=1),
            ResBlock(full, full),
            nn.Conv2d(full, half, 3, stride=2, padding=1),
            ResBlock(half, half),
            nn.Conv2d(half, quarter, 3, stride=2, padding=1),
            ResBlock(quarter, quarter),
            ResBlock(quarter, quarter),
            nn.GroupNorm(8, quarter),
            nn.SiLU(),
            nn.Conv2d(quarter, config.code_dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, quarter, 3, padding=1),
            ResBlock(quarter, quarter),
            ResBlock(quarter, quarter),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(quarter, half, 3, padding=1),
            ResBlock(half, half),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(half, full, 3, padding=1),
            ResBlock(full, full),
            nn.GroupNorm(8, full),
            nn.SiLU(),
            nn.Conv2d(full, 1, 3, padding=1),
        )
        self.codebook: Tensor
        self.register_buffer("codebook", torch.randn(config.codebook_size, config.code_dim))

    def latents(self, images: Tensor) -> Tensor:
        """[B, 3, 32, 32] in [0, 1] -> [B, L, d], not yet quantised."""
        grey: Tensor = self.encoder(images.mean(1, keepdim=True) * 2 - 1)
        return grey.flatten(2).transpose(1, 2)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, 32, 32] in [0, 1] -> tokens [B, L] int64: the nearest code in squared distance."""
        flat = self.latents(images).flatten(0, 1).float()
        distance = self.codebook.float().square().sum(1) - 2 * flat @ self.codebook.float().T
        return distance.argmin(1).view(len(images), -1)

    def decode(self, embeddings: Tensor) -> Tensor:
        """Code vectors [B, L, d] -> images [B, 3, 32, 32] in [0, 1] (grey, three equal channels)."""
        side = round(embeddings.shape[1] ** 0.5)
        grid = embeddings.transpose(1, 2).unflatten(2, (side, side))
        return torch.sigmoid(self.decoder(grid)).expand(-1, 3, -1, -1)


def load_tokenizer(folder: str | Path) -> VqTokenizer:
    """A trained tokenizer, frozen and in eval mode.

    Raises:
        CheckpointError: the folder is absent, damaged or holds another network.
    """
    tokenizer = load_network(
        Path(folder), "tokenizer", lambda sizes: VqTokenizer(VqTokenizerConfig.model_validate(sizes))
    )
    return tokenizer.eval().requires_grad_(False)
