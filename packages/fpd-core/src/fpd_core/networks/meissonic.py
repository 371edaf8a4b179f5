"""Meissonic, text to image at 1024 px; state-dict keys equal those of the public training code.

A 64x64 grid of codes is halved by a convolution, runs through 14 two-stream and 28 single-stream blocks (Flux's, with
rotary positions) and is doubled again.
"""

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fpd_core.config import Codes, Config, Depth, Flag, Size, Whole, check_heads
from fpd_core.draws import normal
from fpd_core.networks.mmdit import JointBlock, Rotation, SingleBlock


class MeissonicConfig(Config):
    """Sizes; the defaults are the public 1024-px model (1,006,946,304 parameters)."""

    codebook_size: Codes = 8192
    # Rows of the embedding table; the last one is the mask token.
    vocabulary: Codes = 8256
    # Codes along one edge of the image; even.
    side: Whole = Field(64, ge=2, le=256, multiple_of=2)
    width: Size = 1024
    num_heads: Size = 8
    depth: Depth = 14
    single_depth: Depth = 28
    mlp_width: Size = 4096
    text_width: Size = 1024
    pooled_width: Size = 1024
    num_micro: Size = 5
    sinusoid_width: Size = Field(256, multiple_of=2)
    # Channels of a head that turn with text position, row and column; they sum to the head size.
    rotary_widths: tuple[Size, Size, Size] = (16, 56, 56)
    # Recompute blocks in the backward pass instead of keeping their activations.
    checkpoint_activations: Flag = False

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_heads(self.width, self.num_heads)
        head = self.width // self.num_heads
        if sum(self.rotary_widths) != head or any(width % 2 for width in self.rotary_widths):
            raise ValueError(f"rotary_widths {self.rotary_widths} must be even and sum to the head size {head}")
        if self.vocabulary <= self.codebook_size:
            raise ValueError(f"vocabulary {self.vocabulary} must exceed codebook_size {self.codebook_size}")
        return self

    @property
    def mask_id(self) -> int:
        return self.vocabulary - 1

    @property
    def seq_len(self) -> int:
        return self.side**2


def sinusoids(values: Tensor, width: int) -> Tensor:
    """[...] -> [..., width] float32, cosines first, longest period 10,000."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=values.device))
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotation(text_len: int, side: int, widths: tuple[int, ...], device: torch.device) -> Rotation:
    """Angles of [text ; side x side grid]: text tokens stay unturned, image tokens turn with (0, row, column)."""
    axis = torch.arange(side, dtype=torch.float64, device=device)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    places = torch.stack([torch.zeros_like(rows), rows, columns], dim=1)
    places = torch.cat([places.new_zeros(text_len, 3), places])
    angles = torch.cat(
        [
            places[:, n, None] / 10_000 ** (torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
            for n, width in enumerate(widths)
        ],
        dim=1,
    )
    return angles.cos().float(), angles.sin().float()


class _RmsNorm2d(nn.RMSNorm):
    """RMS norm over the channels of [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Mlp(nn.Module):
    def __init__(self, width_in: int, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width, bias)
        self.linear_2 = nn.Linear(width, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class _TimeText(nn.Module):
    """Embedded timestep plus embedded condition: the vector that modulates the blocks."""

    def __init__(self, sinusoid_width: int, width: int) -> None:
        super().__init__()
        self.sinusoid_width = sinusoid_width
        self.timestep_embedder = _Mlp(sinusoid_width, width)
        self.text_embedder = _Mlp(width, width)

    def forward(self, timestep: Tensor, vector: Tensor) -> Tensor:
        time = sinusoids(1000 * timestep, self.sinusoid_width).to(vector.dtype)
        out: Tensor = self.timestep_embedder(time) + self.text_embedder(vector)
        return out


class _Embed(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, width)
        self.layer_norm = nn.RMSNorm(width, eps=1e-6)
        self.conv = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.conv(self.layer_norm(self.embeddings(tokens)).permute(0, 3, 1, 2))
        return out


class _Head(nn.Module):
    def __init__(self, width: int, codebook_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.layer_norm = _RmsNorm2d(width, eps=1e-6)
        self.conv2 = nn.Conv2d(width, codebook_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.layer_norm(self.conv1(x)))
        return out


class _Resample(nn.Module):
    """RMS norm, then 2x2 cells to one or one to 2x2."""

    def __init__(self, width: int, *, down: bool) -> None:
        super().__init__()
        self.norm = _RmsNorm2d(width, eps=1e-6)
        convolution = nn.Conv2d if down else nn.ConvTranspose2d
        self.conv = convolution(width, width, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.norm(x))
        return out


class Meissonic(nn.Module):
    """Tokens and CLIP features -> logits over the codes."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.config = config
        width, heads, mlp_width = config.width, config.num_heads, config.mlp_width
        self.time_text_embed = _TimeText(config.sinusoid_width, width)
        self.cond_embed = _Mlp(config.pooled_width + config.num_micro * config.sinusoid_width, width, bias=False)
        self.context_embedder = nn.Linear(config.text_width, width)
        self.encoder_proj_layer_norm = nn.RMSNorm(width, eps=1e-6)
        self.embed = _Embed(config.vocabulary, width)
        self.down_block = nn.ModuleDict({"downsample": _Resample(width, down=True)})
        self.project_to_hidden_norm = nn.RMSNorm(width, eps=1e-6)
        self.project_to_hidden = nn.Linear(width, width, bias=False)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(width, heads, mlp_width, qk_norm=True) for _ in range(config.depth)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(width, heads, mlp_width) for _ in range(config.single_depth)
        )
        self.project_from_hidden_norm = nn.RMSNorm(width, eps=1e-6)
        self.project_from_hidden = nn.Linear(width, width, bias=False)
        self.up_block = nn.ModuleDict({"upsample": _Resample(width, down=False)})
        self.mlm_layer = _Head(width, config.codebook_size)

    def forward(
        self,
        tokens: Tensor,
        text: Tensor,
        pooled: Tensor,
        micro: Tensor,
        timestep: Tensor,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits at every position.

        Args:
            tokens: [B, L] int64, row-major, in [0, K) or the mask id.
            text: [B, T, text_width], penultimate states of OpenCLIP ViT-H/14.
            pooled: [B, pooled_width], its projected end-of-text state.
            micro: [B, num_micro]: width, height, crop top, crop left in pixels, aesthetic score.
            timestep: [B], multiplied by 1000 inside. The public sampler feeds its step index, N-1 down to 0; Di[M]O 0.
            embedding_noise: σ in [0, 1); the embedded grid becomes sqrt(1-σ²) e + σ ε (Di[M]O's option).

        Returns:
            [B, L, K]
        """
        side = self.config.side
        grid = self.embed(tokens.unflatten(1, (side, side)))
        if embedding_noise > 0:
            noise = normal(grid, generator)
            grid = (1 - embedding_noise**2) ** 0.5 * grid + embedding_noise * noise
        micro = sinusoids(micro, self.config.sinusoid_width).flatten(1).to(pooled.dtype)
        vector = self.time_text_embed(timestep, self.cond_embed(torch.cat([pooled, micro], dim=1)))
        text = self.encoder_proj_layer_norm(self.context_embedder(text))
        image = self.down_block["downsample"](grid).flatten(2).transpose(1, 2)
        image = self.project_to_hidden(self.project_to_hidden_norm(image))
        image = self._blocks(image, text, vector)
        image = self.project_from_hidden(self.project_from_hidden_norm(image))
        grid = self.up_block["upsample"](image.transpose(1, 2).unflatten(2, (side // 2, side // 2)))
        logits: Tensor = self.mlm_layer(grid)
        return logits.flatten(2).transpose(1, 2)

    def _blocks(self, image: Tensor, text: Tensor, vector: Tensor) -> Tensor:
        recompute = self.config.checkpoint_activations and torch.is_grad_enabled()
        angles = rotation(text.shape[1], self.config.side // 2, self.config.rotary_widths, image.device)
        for block in self.transformer_blocks:
            image, text = (
                checkpoint(block, image, text, vector, angles, use_reentrant=False)
                if recompute
                else block(image, text, vector, angles)
            )
        x = torch.cat([text, image], dim=1)
        for block in self.single_transformer_blocks:
            x = checkpoint(block, x, vector, angles, use_reentrant=False) if recompute else block(x, vector, angles)
        return x[:, text.shape[1] :]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parts a student may keep frozen: Di[M]O freezes the whole embedding block."""
        return {"embeddings": list(self.embed.parameters()), "output_head": list(self.mlm_layer.parameters())}
