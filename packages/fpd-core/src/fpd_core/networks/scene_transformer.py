"""The masked transformer of the scenes: image tokens start from the text tower's plan and keep reading its words."""

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fpd_core.config import Codes, Config, Depth, Size, Whole, check_heads
from fpd_core.networks.mmdit import FeedForward, attend, split_heads
from fpd_core.networks.token_transformer import TokenTransformer


class SceneTransformerConfig(Config):
    """Sizes."""

    codebook_size: Codes = Field(1024, description="K.")
    grid: Whole = Field(8, ge=1, le=256, description="Side of the token grid; L is its square.")
    context_len: Size = Field(12, description="Word states of the text tower; the plan's L states follow them.")
    text_width: Size = Field(128, description="Channels of the text tower's states.")
    width: Size = Field(128, description="Channels of a token.")
    depth: Depth = Field(5, description="Transformer blocks.")
    num_heads: Size = Field(4, description="Attention heads; divide the width.")
    mlp_width: Size = Field(512, description="Hidden channels of a block's MLP.")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.width, self.num_heads)
        return self

    @property
    def mask_id(self) -> int:
        return self.codebook_size

    @property
    def seq_len(self) -> int:
        return self.grid**2


class SceneBlock(nn.Module):
    """Attention of image tokens to words and image, a depthwise convolution over the grid, an MLP; all pre-norm."""

    def __init__(self, config: SceneTransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads, self.grid = config.num_heads, config.grid
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.to_qkv = nn.Linear(width, 3 * width)
        self.words_to_kv = nn.Linear(config.text_width, 2 * width)
        self.to_out = nn.Linear(width, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.ff = FeedForward(width, config.mlp_width)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """Image [B, L, W] and words [B, T, text_width] -> [B, L, W]."""
        q, k, v = self.to_qkv(self.norm1(x)).chunk(3, dim=-1)
        word_k, word_v = self.words_to_kv(words).chunk(2, dim=-1)
        k, v = torch.cat([word_k, k], dim=1), torch.cat([word_v, v], dim=1)
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, v))
        x = x + self.to_out(attend(q, k, v, None))
        image = self.norm2(x).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        x = x + self.conv(image).flatten(2).transpose(1, 2)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class SceneTransformer(TokenTransformer):
    """Tokens [B, L] and text features [B, T + L, text_width], word states and then the plan -> logits [B, L, K]."""

    config: SceneTransformerConfig

    def __init__(self, config: SceneTransformerConfig) -> None:
        super().__init__(config)
        width = config.width
        self.tok_emb = nn.Embedding(config.codebook_size + 1, width)
        self.pos_emb = nn.Parameter(torch.randn(config.seq_len, width) * 0.02)
        self.plan = nn.Linear(config.text_width, width)
        self.blocks = nn.ModuleList(SceneBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.codebook_size)
        nn.init.normal_(self.tok_emb.weight, std=0.02)

    @property
    def appended_width(self) -> int:
        return self.config.text_width

    def scores(self, embeddings: Tensor, condition: Tensor, appended: Tensor | None = None) -> Tensor:
        """See `TokenTransformer`; what is appended is read as further words."""
        words, x = self._begin(embeddings, condition)
        if appended is not None:
            words = torch.cat([words, appended], dim=1)
        for block in self.blocks:
            x = block(x, words)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def features(self, embeddings: Tensor, condition: Tensor, layers: Sequence[int]) -> list[Tensor]:
        found: list[Tensor] = []
        words, x = self._begin(embeddings, condition)
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            x = block(x, words)
            found += [x] if index in layers else []
        return found

    def _begin(self, embeddings: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Word states, and the image tokens before the first block."""
        words, plan = text.split([self.config.context_len, self.config.seq_len], dim=1)
        return words, embeddings + self.pos_emb + self.plan(plan)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parts a student may keep frozen, by the names used in configs."""
        table = self.tok_emb.weight
        assert isinstance(table, nn.Parameter)
        return {"embeddings": [table], "positions": [self.pos_emb]}
