"""The Halton-MaskGIT v2 class-conditional transformer; state-dict keys equal those of the public checkpoints.

Unlike v1's, classes have a table of their own and enter through adaLN, a register token runs along, and the bias of the
logits is the same at every position. The head is tied to the token table.
"""

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.config import Classes, Codes, Config, Depth, Share, Size
from fpd_core.draws import normal
from fpd_core.networks.token_transformer import noised

EPS = 1e-5


class HaltonConfig(Config):
    """Sizes; the defaults are the public base model for 256 px (142,224,641 parameters)."""

    codebook_size: Codes = Field(16384, description="K, codes; the mask token comes on top.")
    num_classes: Classes = Field(1000, description="Classes; the null class comes on top.")
    seq_len: Size = Field(256, description="L, tokens of an image.")
    width: Size = Field(768, description="Channels of a token.")
    depth: Depth = Field(12, description="Transformer blocks.")
    # Need not divide the width: the small model has 6 heads of 85 channels in a width of 512.
    num_heads: Size = Field(12, description="Attention heads of width // num_heads channels.")
    mlp_width: Size = Field(2048, description="Hidden channels of a block's MLP.")
    dropout: Share = Field(0.1, description="In training of the teacher; a student trains without.")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.num_heads > self.width:
            raise ValueError(f"num_heads {self.num_heads} is above the width {self.width}")
        return self

    @property
    def mask_id(self) -> int:
        return self.codebook_size


def _rms(x: Tensor) -> Tensor:
    """x over its root mean square, computed in at least float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


class _RmsNorm(nn.Module):
    def __init__(self, width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        out = _rms(x) * self.weight
        return out if self.bias is None else out + self.bias


def _modulation(width: int, chunks: int) -> nn.Sequential:
    """The condition [B, width] -> [B, chunks * width]."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, chunks * width))


class _Attention(nn.Module):
    """Queries and keys are normalised over all heads at once; no biases."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner = width // num_heads * num_heads
        self.wq, self.wk, self.wv = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.wo = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in (_rms(self.wq(x)), _rms(self.wk(x)), self.wv(x))
        )
        dropped = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped).transpose(1, 2).flatten(2)
        out: Tensor = self.dropout(self.wo(mixed))
        return out


class _SwiGlu(nn.Module):
    def __init__(self, width: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(width, mlp_width, bias=False) for _ in range(2))
        self.w2 = nn.Linear(mlp_width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(self.dropout(F.silu(self.w1(x)) * self.w3(x)))
        return out


class _Block(nn.Module):
    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        width = config.width
        self.mlp = _modulation(width, 6)
        self.ln1, self.ln2 = _RmsNorm(width), _RmsNorm(width)
        self.attn = _Attention(width, config.num_heads, config.dropout)
        self.ff = _SwiGlu(width, config.mlp_width, config.dropout)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.mlp(vector)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.ln1(x) * (1 + scale1) + shift1)
        out: Tensor = x + gate2 * self.ff(self.ln2(x) * (1 + scale2) + shift2)
        return out


class _Blocks(nn.Module):
    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.depth))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x, vector)
        return x


class _LastNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = _RmsNorm(width, bias=True)
        self.mlp = _modulation(width, 2)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.mlp(vector)[:, None].chunk(2, dim=-1)
        out: Tensor = self.norm_final(x) * (1 + scale) + shift
        return out


class _Head(nn.Module):
    """Scores against the token table, one bias per column."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return F.linear(x, table, self.bias)


class HaltonMaskGit(nn.Module):
    """Tokens and classes -> logits over the codes and the mask token."""

    # The tied head: the public file holds both names.
    PUBLIC_ALIASES: ClassVar[dict[str, str]] = {"head.weight": "tok_emb.weight"}

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cls_emb = nn.Embedding(config.num_classes + 1, width)
        self.tok_emb = nn.Embedding(config.codebook_size + 1, width)
        self.pos_emb = nn.Embedding(config.seq_len, width)
        self.reg_tokens = nn.Embedding(1, width)
        self.transformer = _Blocks(config)
        self.last_norm = _LastNorm(width)
        self.head = _Head(config.codebook_size + 1)
        self.apply(_initialise)
        for block in self.transformer.layers:
            assert isinstance(block, _Block)
            nn.init.zeros_(next(block.mlp.parameters()))  # adaLN-zero: every block starts as the identity

    def forward(
        self, tokens: Tensor, labels: Tensor, embedding_noise: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits at every position.

        Args:
            tokens: [B, L] int64 in [0, K], row-major; K is the mask id.
            labels: [B] int64 in [0, num_classes]; num_classes is the null class.
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

    def scores(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, L, K + 1] from token embeddings [B, L, width], which need not be those of codes."""
        vector = self.cls_emb(labels)
        register = self.reg_tokens.weight.expand(len(embeddings), 1, -1)
        x = torch.cat([embeddings + self.pos_emb.weight, register], dim=1)
        x = self.transformer(x, vector)[:, :-1]
        logits: Tensor = self.head(self.last_norm(x, vector), self.tok_emb.weight)
        return logits

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parts a student may keep frozen, by the names used in configs; `embeddings` hold the classes as in v1."""
        tables = (self.tok_emb, self.cls_emb, self.reg_tokens)
        return {
            "embeddings": [parameter for table in tables for parameter in table.parameters()],
            "positions": list(self.pos_emb.parameters()),
            "output_bias": [self.head.bias],
        }


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
