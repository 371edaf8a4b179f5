"""Soft-Di[M]O's discriminator: a light head on each of several layers of a frozen transformer. Its shape is a guess."""

from collections.abc import Sequence

from torch import Tensor, nn

HIDDEN = 128


class TokenHeads(nn.Module):
    """Features [B, L, width] of `count` layers -> logits [B, L] of each."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))
            for _ in range(count)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [head(one)[..., 0] for head, one in zip(self.heads, features, strict=True)]
