"""Di4C's further input: a token that carries λ in [0, 1] (arXiv 2410.08709).

State-dict keys are the network's own and `latent_projection`, so a teacher's weights fill all but the new layers.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fpd_core.draws import uniform
from fpd_core.networks.token_transformer import ExtraInput, TokenTransformer

SINUSOIDS, HIDDEN = 128, 512


def sinusoids(latent: Tensor) -> Tensor:
    """λ [B] -> [B, 128] in its dtype: sines, then cosines, of 1000 λ at 64 frequencies 10000^(-k/63)."""
    half = SINUSOIDS // 2
    # The original's frequencies are float32: at 1000 λ that is seen in the fifth digit.
    frequencies = (torch.arange(half, device=latent.device) * -(math.log(10_000) / (half - 1))).exp().to(latent.dtype)
    angles = 1000 * latent[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ReadsLatent(TokenTransformer):
    """Put before a transformer's class: it reads λ too. Without λ it is the plain network."""

    extra_input: ClassVar[ExtraInput] = "latent"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.latent_projection = nn.Sequential(
            nn.Linear(SINUSOIDS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, self.appended_width)
        )

    def forward(
        self,
        tokens: Tensor,
        condition: Tensor,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
        latent: Tensor | None = None,
    ) -> Tensor:
        """Logits as the plain network's; `latent` [B] is λ, one thing more to attend to."""
        image = self.embedded(tokens, embedding_noise, generator)
        appended = None
        if latent is not None:  # λ is float32, also for weights that are not
            appended = self.latent_projection(sinusoids(latent).to(image.dtype))[:, None]
        return self.scores(image, condition, appended)

    def draw_inputs(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """λ ~ U(0, 1), [batch]."""
        return {"latent": uniform(batch, generator=generator, device=self.tok_emb.weight.device)}
