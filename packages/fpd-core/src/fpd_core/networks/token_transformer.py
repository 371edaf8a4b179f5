"""The interface of transformers over image tokens that are open in the middle: embed, then score."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fpd_core.draws import normal

ExtraInput = Literal["none", "latent", "noise"]


def noised(embeddings: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """sqrt(1-σ²) e + σ ε: Gaussian `noise` of σ in [0, 1) that keeps the variance of unit embeddings."""
    mixed: Tensor = (1 - sigma**2) ** 0.5 * embeddings + sigma * noise
    return mixed


class TokenTransformer(nn.Module, ABC):
    """Tokens and a condition -> logits, by way of token embeddings that a method may put in place of a code's.

    The condition is what `fpd_core.conditioning.network_input` makes of a batch: labels [B] or text features.

    Attributes:
        tok_emb: at least K + 1 rows, the codes' and the mask token's.
        extra_input: what a forward pass reads beside tokens and condition; `extra_inputs` has networks that read more.
    """

    tok_emb: nn.Embedding
    extra_input: ClassVar[ExtraInput] = "none"

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    @abstractmethod
    def appended_width(self) -> int:
        """Channels of what `scores` can append."""

    @abstractmethod
    def scores(self, embeddings: Tensor, condition: Tensor, appended: Tensor | None = None) -> Tensor:
        """Logits [B, L, K or more] from token embeddings, which need not be those of codes.

        Args:
            embeddings: [B, L, width].
            appended: [B, A, appended_width], more to attend to.
        """

    @abstractmethod
    def features(self, embeddings: Tensor, condition: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Outputs [B, L, width] at the image positions of the blocks `layers`, counted from 0 and ascending.

        Args:
            embeddings: [B, L, width], with gradient if that is wanted.
        """

    def forward(
        self, tokens: Tensor, condition: Tensor, embedding_noise: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits at every image position.

        Args:
            tokens: [B, L] int64 in [0, K]; K is the mask id.
            embedding_noise: σ in [0, 1); token embeddings become sqrt(1-σ²) e + σ ε (Di[M]O's option).
        """
        return self.scores(self.embedded(tokens, embedding_noise, generator), condition)

    def embedded(self, tokens: Tensor, noise: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """Token embeddings [B, L, width], with Gaussian noise of σ = `noise`."""
        image: Tensor = self.tok_emb(tokens)
        return noised(image, normal(image, generator), noise) if noise > 0 else image

    def draw_inputs(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Random inputs of one forward pass of `batch` images, by the name of `forward`'s argument."""
        return {}
