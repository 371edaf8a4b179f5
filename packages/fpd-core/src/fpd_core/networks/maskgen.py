"""MaskGen (VQ), text to image; state-dict keys equal those of the public checkpoints.

The embedding table holds K codes, the mask token, then rows nothing uses. The head is tied to the code rows.
"""

import math
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fpd_core.config import Codes, Config, Depth, Flag, Size, Whole, check_heads
from fpd_core.draws import normal
from fpd_core.networks.mmdit import JointBlock, Modulation, modulate


class MaskGenConfig(Config):
    """Sizes; the defaults are the public MaskGen-L VQ (604,311,552 parameters, 256 px)."""

    codebook_size: Codes = 8192
    seq_len: Size = 128
    width: Size = 1024
    depth: Depth = 16
    num_heads: Size = 16
    mlp_width: Size = 4096
    text_width: Size = 768
    pooled_width: Size = 768
    aesthetic_width: Size = Field(256, multiple_of=2)
    # 1000 classes and a dropped class left over from class-conditional training.
    unused_rows: Whole = Field(1001, ge=0, le=2**20)
    # Recompute blocks in the backward pass instead of keeping their activations.
    checkpoint_activations: Flag = False

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.width, self.num_heads)
        return self

    @property
    def mask_id(self) -> int:
        return self.codebook_size


def aesthetic_embedding(score: Tensor, width: int) -> Tensor:
    """Sinusoids of 100 * score, sines first, longest period 1000 (not the usual 10,000).

    Args:
        score: [B], LAION aesthetic scores, about 0 to 10.

    Returns:
        [B, width] float32.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(1000) / half * torch.arange(half, dtype=torch.float32, device=score.device))
    angles = 100 * score.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class MaskGen(nn.Module):
    """Tokens and CLIP features -> logits over the codes.

    Unlike the public module, the forward pass never masks its input, in training mode neither.
    """

    # The tied head: .bin files carry both names, safetensors only one of them.
    PUBLIC_ALIASES: ClassVar[dict[str, str]] = {"lm_head.weight": "embeddings.weight"}

    def __init__(self, config: MaskGenConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embeddings = nn.Embedding(config.codebook_size + 1 + config.unused_rows, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.seq_len, width))
        self.text_embed_proj = nn.Linear(config.text_width, width)
        self.cond_pooled_proj = nn.Linear(config.pooled_width + config.aesthetic_width, width)
        self.blocks = nn.ModuleList(
            JointBlock(width, config.num_heads, config.mlp_width, last=n == config.depth - 1)
            for n in range(config.depth)
        )
        self.norm = Modulation(width, 2)
        for weight in (self.embeddings.weight, self.pos_embed):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(
        self,
        tokens: Tensor,
        text: Tensor,
        pooled: Tensor,
        aesthetic: Tensor,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits at every position.

        Args:
            tokens: [B, L] int64 in [0, K]; K is the mask id.
            text: [B, T, text_width], penultimate CLIP states; padding positions take part.
            pooled: [B, pooled_width], CLIP's projected end-of-text state, not normalised.
            aesthetic: [B], aesthetic score; the public sampler uses 6.5 in both branches.
            embedding_noise: σ in [0, 1); token embeddings become sqrt(1-σ²) e + σ ε (Di[M]O's option).

        Returns:
            [B, L, K]
        """
        image = self.embeddings(tokens)
        if embedding_noise > 0:
            noise = normal(image, generator)
            image = (1 - embedding_noise**2) ** 0.5 * image + embedding_noise * noise
        image = image + self.pos_embed
        text = self.text_embed_proj(text)
        score = aesthetic_embedding(aesthetic, self.config.aesthetic_width).to(pooled.dtype)
        vector = self.cond_pooled_proj(torch.cat([pooled, score], dim=1))
        recompute = self.config.checkpoint_activations and torch.is_grad_enabled()
        for block in self.blocks:
            image, text = (
                checkpoint(block, image, text, vector, use_reentrant=False) if recompute else block(image, text, vector)
            )
        scale, shift = self.norm(vector)
        logits: Tensor = modulate(image, shift, scale) @ self.embeddings.weight[: self.config.codebook_size].T
        return logits

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parts a student may keep frozen, by the names used in configs; there is no output bias."""
        table = self.embeddings.weight
        assert isinstance(table, nn.Parameter)
        return {"embeddings": [table], "positions": [self.pos_embed]}
