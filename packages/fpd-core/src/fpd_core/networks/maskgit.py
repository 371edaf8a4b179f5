"""The MaskGIT v1 class-conditional transformer; state-dict keys equal those of the public ImageNet checkpoints.

One embedding table holds K image codes, then the mask token, then the classes, then the dropped class. The sequence is
the L image tokens followed by one class token; the output head is tied to the embeddings.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fpd_core.config import Classes, Codes, Config, Depth, Share, Size, check_heads
from fpd_core.draws import normal

ExtraInput = Literal["none", "latent", "noise"]


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


def noised(embeddings: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """sqrt(1-σ²) e + σ ε: Gaussian `noise` of σ in [0, 1) that keeps the variance of unit embeddings."""
    mixed: Tensor = (1 - sigma**2) ** 0.5 * embeddings + sigma * noise
    return mixed


class MaskGit(nn.Module):
    """Tokens and classes -> logits over the codes and the mask token.

    Attributes:
        extra_input: what a forward pass reads beside those; `maskgit_family` has networks that read more.
    """

    extra_input: ClassVar[ExtraInput] = "none"

    def __init__(self, config: MaskGitConfig) -> None:
        super().__init__()
        self.config = config
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

    def forward(
        self, tokens: Tensor, labels: Tensor, embedding_noise: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits at every image position.

        Args:
            tokens: [B, L] int64 in [0, K]; K is the mask id.
            labels: [B] int64 in [0, num_classes]; num_classes is the dropped class.
            embedding_noise: σ in [0, 1); token embeddings become sqrt(1-σ²) e + σ ε (Di[M]O's option).

        Returns:
            [B, L, K + 1]; the last column scores the mask id.
        """
        return self.scores(self.embedded(tokens, embedding_noise, generator), labels)

    def embedded(self, tokens: Tensor, noise: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """Token embeddings [B, L, width], with Gaussian noise of σ = `noise`."""
        image: Tensor = self.tok_emb(tokens)
        if noise > 0:
            image = noised(image, normal(image, generator), noise)
        return image

    def scores(self, embeddings: Tensor, labels: Tensor, appended: Tensor | None = None) -> Tensor:
        """Logits [B, L, K + 1] from token embeddings, which need not be those of codes.

        Args:
            embeddings: [B, L, width].
            appended: [B, A, width], further tokens behind the class, without a position; their outputs are dropped.
        """
        codes, length = self.config.codebook_size, embeddings.shape[1]
        x = self._sequence(embeddings, labels)
        if appended is not None:
            x = torch.cat([x, appended], dim=1)
        x = self.last_layer(self.transformer(self.first_layer(x)))[:, :length]
        logits: Tensor = x @ self.tok_emb.weight[: codes + 1].T + self.bias[:length, : codes + 1]
        return logits

    def features(self, embeddings: Tensor, labels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Outputs [B, L, width] at the image positions of the blocks `layers`, counted from 0 and ascending.

        Args:
            embeddings: [B, L, width], with gradient if that is wanted.
        """
        found: list[Tensor] = []
        x = self.first_layer(self._sequence(embeddings, labels))
        for index, block in enumerate(self.transformer.layers[: max(layers) + 1]):
            x = self.transformer.through(block, x)
            found += [x[:, : embeddings.shape[1]]] if index in layers else []
        return found

    def draw_inputs(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Random inputs of one forward pass of `batch` images, by the name of `forward`'s argument."""
        return {}

    def _sequence(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        x: Tensor = torch.cat([embeddings, self.tok_emb(labels + self.config.codebook_size + 1)[:, None]], dim=1)
        return x + self.pos_emb

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parts a student may keep frozen, by the names used in configs."""
        table = self.tok_emb.weight
        assert isinstance(table, nn.Parameter)
        return {"embeddings": [table], "positions": [self.pos_emb], "output_bias": [self.bias]}
