"""The VQGAN of taming-transformers, f = 16 with 1024 codes; state-dict keys equal the public ImageNet checkpoint's.

LlamaGen's VQ-16 is the same network with other keys, a narrower code and unit code vectors. Images are in [-1, 1] here,
as the public weights expect; teachers map to [0, 1]. Written out although diffusers has a VQModel: that one has other
state-dict names, and fpd-core opens students without diffusers. Meissonic's weights are a VQModel's, and use it.
"""

import itertools
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.config import Codes, Config, Depth, Flag, Size, Whole
from fpd_core.networks.codebook import Codebook
from fpd_core.networks.llamagen import to_taming


class VqGanConfig(Config):
    """Sizes; the defaults are the public ImageNet model (72,141,699 parameters, 256 px <-> 16x16 codes)."""

    codebook_size: Codes = 1024
    code_dim: Size = 256
    latent_channels: Size | None = Field(
        None, description="Where the encoder ends and the decoder begins; null: code_dim."
    )
    unit_codes: Flag = Field(False, description="Code vectors are l2-normalised at every use.")
    channels: Size = Field(128, multiple_of=32)
    # Level 0 is full resolution; each further level halves it.
    multipliers: tuple[Annotated[Whole, Field(ge=1, le=64)], ...] = Field((1, 1, 2, 2, 4), min_length=1, max_length=8)
    num_blocks: Depth = 2

    @property
    def widths(self) -> list[int]:
        return [self.channels * multiplier for multiplier in self.multipliers]

    @property
    def latent_width(self) -> int:
        return self.latent_channels or self.code_dim


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class _ResBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = _norm(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        if width_in != width_out:
            self.nin_shortcut = nn.Conv2d(width_in, width_out, 1)
        self.has_shortcut = width_in != width_out

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = (self.nin_shortcut(x) if self.has_shortcut else x) + h
        return out


class _AttnBlock(nn.Module):
    """One head over all h*w positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).view_as(x)
        out: Tensor = x + self.proj_out(mixed)
        return out


class _Resample(nn.Module):
    """Halves or doubles the resolution; the state-dict name of its convolution is `conv`."""

    def __init__(self, width: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(width, width, 3, stride=2) if down else nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # Down: padded at the right and the bottom only.
        x = F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest")
        out: Tensor = self.conv(x)
        return out


class _Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where there is any, then the resampling."""

    def __init__(self, width_in: int, width_out: int, num_blocks: int, *, attention: bool) -> None:
        super().__init__()
        widths = [width_in] + [width_out] * num_blocks
        self.block = nn.ModuleList(_ResBlock(a, b) for a, b in itertools.pairwise(widths))
        self.attn = nn.ModuleList(_AttnBlock(width_out) for _ in range(num_blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for n, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[n](x)
        return x


class _Mid(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = _ResBlock(width, width)
        self.attn_1 = _AttnBlock(width)
        self.block_2 = _ResBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class _Encoder(nn.Module):
    def __init__(self, config: VqGanConfig) -> None:
        super().__init__()
        widths = config.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for n, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            level = _Level(before, width, config.num_blocks, attention=n == last)
            if n < last:
                level.downsample = _Resample(width, down=True)
            self.down.append(level)
        self.mid = _Mid(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_width, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for n, level in enumerate(self.down):
            x = level(x)
            if n < len(self.down) - 1:
                assert isinstance(level.downsample, _Resample)
                x = level.downsample(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: VqGanConfig) -> None:
        super().__init__()
        widths = config.widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_width, widths[-1], 3, padding=1)
        self.mid = _Mid(widths[-1])
        # Indexed by level like the encoder's, though run from the last to the first.
        self.up = nn.ModuleList()
        for n, (width, before) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            level = _Level(before, width, config.num_blocks + 1, attention=n == last)
            if n > 0:
                level.upsample = _Resample(width, down=False)
            self.up.append(level)
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for n in reversed(range(len(self.up))):
            level = self.up[n]
            x = level(x)
            if n > 0:
                assert isinstance(level.upsample, _Resample)
                x = level.upsample(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class VqGan(nn.Module):
    """Images [B, 3, 16h, 16w] in [-1, 1] to L = h*w codes (row-major) and, for square grids, back."""

    # Public files also hold the training losses (LPIPS and the discriminator) and LlamaGen's log of codes in use.
    IGNORED_PREFIXES: ClassVar[tuple[str, ...]] = ("loss.", "quantize.codebook_used")

    def __init__(self, config: VqGanConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = Codebook(config.codebook_size, config.code_dim, unit=config.unit_codes)
        self.quant_conv = nn.Conv2d(config.latent_width, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent_width, 1)

    @property
    def codebook(self) -> Tensor:
        """E [K, d]."""
        return self.quantize.vectors

    def latents(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, L, d], not yet quantised nor normalised."""
        grid: Tensor = self.quant_conv(self.encoder(images))
        return grid.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> tokens [B, L] int64: the nearest code in squared distance."""
        return self.quantize.nearest(self.latents(images))

    def decode(self, embeddings: Tensor) -> Tensor:
        """Code vectors [B, L, d] of a square grid, before `post_quant_conv` -> images [B, 3, H, W], about [-1, 1].

        Differentiable; not clamped.
        """
        side = round(embeddings.shape[1] ** 0.5)
        grid = embeddings.transpose(1, 2).unflatten(2, (side, side))
        images: Tensor = self.decoder(self.post_quant_conv(grid))
        return images

    @staticmethod
    def rename_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in LlamaGen's naming in taming-transformers'; any other naming unchanged."""
        return to_taming(state)
