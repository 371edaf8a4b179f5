"""The MaskGIT v1 class-conditional transformer; state-dict keys equal those of the public ImageNet checkpoints.

One embedding table holds K image codes, then the mask token, then the classes, then the dropped class. The sequence is
the L image tokens followed by one class token; the output head is tied to the embeddings.
"""

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fpd_core.config import Classes, Codes, Config, Depth, Share, Size, check_heads
from fpd_core.networks.token_transformer import TokenTransformer


class MaskGitConfig(Config):
    """Sizes; the defaults are the public ImageNet-256 model (174,160,874 parameters)."""

    codebook_size: Codes = Field(1024, description="K, codes; the mask token comes on top.")
    num_classes: Classes = Field(1000, description="Classes; the null class comes on top.")
    seq_len: Size = Field(256, description="L, tokens of an image.")
    width: Size = Field(768, description="Channels of a token.")
    depth: Depth = Field(24, description="Transformer blocks.")
    # Not recoverable from the weights: 8 or 12 heads load cleanly and give nonsense.
    num_heads: Size = Field(16, description="Attention heads; divide the width.")
    mlp_width: Size = Field(3072, description="Hidden channels of a block's MLP.")
    dropout: Share = Field(0.1, description="In training of the teacher; a student trains without.")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.width, self.num_heads)
        return self

    @property
    def mask_id(self) -> int:
        return self.codebook_size

    @property
    def dropped_class(self) -> int:
        """The class index that stands for "no condition"."""
        return self.num_classes


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(width, num_heads, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mha(x, x, x, need_weights=False)[0]
        return mixed


class _Mlp(nn.Module):
    def __init__(self, width: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, mlp_width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class _PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fn(self.norm(x))
        return out


class _Blocks(nn.Module):
    def __init__(self, config: MaskGitConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _PreNorm(config.width, _Attention(config.width, config.num_heads, config.dropout)),
                    _PreNorm(config.width, _Mlp(config.width, config.mlp_width, config.dropout)),
                ]
            )
            for _ in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = self.through(block, x)
        return x

    def through(self, block: nn.Module, x: Tensor) -> Tensor:
        """One block, residuals included."""
        assert isinstance(block, nn.ModuleList)
        for part in block:
            x = x + part(x)
        return x


class MaskGit(TokenTransformer):
    """Tokens [B, L] and class labels [B] int64 in [0, num_classes], the dropped class among them -> logits
    [B, L, K + 1]; the last column scores the mask id."""

    config: MaskGitConfig

    def __init__(self, config: MaskGitConfig) -> None:
        super().__init__(config)
        width, length = config.width, config.seq_len
        vocabulary = config.codebook_size + 1 + config.num_classes + 1
        self.tok_emb = nn.Embedding(vocabulary, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, length + 1, width))
        self.first_layer = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
        )
        self.transformer = _Blocks(config)
        self.last_layer = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
        )
        self.bias = nn.Parameter(torch.zeros(length + 1, vocabulary))
        for weight in (self.tok_emb.weight, self.pos_emb):
            nn.init.trunc_normal_(weight, std=0.02)

    @property
    def appended_width(self) -> int:
        return self.config.width

    def scores(self, embeddings: Tensor, condition: Tensor, appended: Tensor | None = None) -> Tensor:
        """See `TokenTransformer`; what is appended stands behind the class, without a position, its outputs dropped."""
        codes, length = self.config.codebook_size, embeddings.shape[1]
        x = self._sequence(embeddings, condition)
        if appended is not None:
            x = torch.cat([x, appended], dim=1)
        x = self.last_layer(self.transformer(self.first_layer(x)))[:, :length]
        logits: Tensor = x @ self.tok_emb.weight[: codes + 1].T + self.bias[:length, : codes + 1]
        return logits

    def features(self, embeddings: Tensor, condition: Tensor, layers: Sequence[int]) -> list[Tensor]:
        found: list[Tensor] = []
        x = self.first_layer(self._sequence(embeddings, condition))
        for index, block in enumerate(self.transformer.layers[: max(layers) + 1]):
            x = self.transformer.through(block, x)
            found += [x[:, : embeddings.shape[1]]] if index in layers else []
        return found

    def _sequence(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        x: Tensor = torch.cat([embeddings, self.tok_emb(labels + self.config.codebook_size + 1)[:, None]], dim=1)
        return x + self.pos_emb

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parts a student may keep frozen, by the names used in configs."""
        table = self.tok_emb.weight
        assert isinstance(table, nn.Parameter)
        return {"embeddings": [table], "positions": [self.pos_emb], "output_bias": [self.bias]}
