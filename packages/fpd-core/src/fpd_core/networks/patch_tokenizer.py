"""The tokenizer of the scenes: every 8x8 patch alone becomes a code, so equal patches get equal codes everywhere."""

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import load_network
from fpd_core.config import Codes, Config, Size

PATCH = 8


class PatchTokenizerConfig(Config):
    """Sizes of the tokenizer."""

    codebook_size: Codes = Field(1024, description="K, number of codes.")
    code_dim: Size = Field(16, description="d, channels per code.")
    encoder_width: Size = Field(256, description="Hidden channels of the MLP on a patch.")
    widths: tuple[Size, Size, Size] = Field(
        (160, 80, 48), description="Decoder channels at an eighth, a quarter and half of the resolution."
    )


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each pixel, [B, C, H, W]: no statistics over places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.weight


class ResBlock(nn.Module):
    """Two 3x3 convolutions, pre-norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return out


class PatchTokenizer(nn.Module):
    """Square images [B, 3, H, H] in [0, 1] to L = (H/8)² codes (row-major) and back."""

    def __init__(self, config: PatchTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        eighth, quarter, half = config.widths
        self.encoder = nn.Sequential(
            nn.Linear(3 * PATCH * PATCH, config.encoder_width),
            nn.GELU(),
            nn.Linear(config.encoder_width, config.encoder_width),
            nn.GELU(),
            nn.Linear(config.encoder_width, config.code_dim),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, eighth, 3, padding=1),
            ResBlock(eighth),
            ResBlock(eighth),
            nn.Conv2d(eighth, 4 * quarter, 1),
            nn.PixelShuffle(2),
            ResBlock(quarter),
            nn.Conv2d(quarter, 4 * half, 1),
            nn.PixelShuffle(2),
            ResBlock(half),
            ChannelNorm(half),
            nn.SiLU(),
            nn.Conv2d(half, 4 * 3, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.codebook: Tensor
        self.register_buffer("codebook", torch.randn(config.codebook_size, config.code_dim))

    def latents(self, images: Tensor) -> Tensor:
        """[B, 3, H, H] in [0, 1] -> [B, L, d], not yet quantised."""
        patches = F.unfold(images * 2 - 1, PATCH, stride=PATCH).transpose(1, 2)
        latents: Tensor = self.encoder(patches)
        return latents

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, H] in [0, 1] -> tokens [B, L] int64: the nearest code in squared distance."""
        flat = self.latents(images).flatten(0, 1).float()
        distance = self.codebook.float().square().sum(1) - 2 * flat @ self.codebook.float().T
        return distance.argmin(1).view(len(images), -1)

    def decode(self, embeddings: Tensor) -> Tensor:
        """Code vectors [B, L, d] -> images [B, 3, H, H], in [0, 1] but for overshoot."""
        side = round(embeddings.shape[1] ** 0.5)
        out: Tensor = self.decoder(embeddings.transpose(1, 2).unflatten(2, (side, side)))
        return out + 0.5


def load_patch_tokenizer(folder: str | Path) -> PatchTokenizer:
    """A trained tokenizer, frozen and in eval mode.

    Raises:
        CheckpointError: the folder is absent, damaged or holds another network.
    """
    tokenizer = load_network(
        Path(folder), "tokenizer", lambda sizes: PatchTokenizer(PatchTokenizerConfig.model_validate(sizes))
    )
    return tokenizer.eval().requires_grad_(False)
