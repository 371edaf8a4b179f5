"""D-MMD's further input: Gaussian noise on the token embeddings (arXiv 2603.20155, whose images take a pyramid).

State-dict keys are the network's own and `noise_projection`, which starts at zero: the new network is the old one at
first.
"""

from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.draws import normal
from fpd_core.networks.token_transformer import ExtraInput, TokenTransformer

CHANNELS = 16  # Choice: not printed.


def pyramid(batch: int, side: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Noise [batch, side², CHANNELS] of unit variance: Gaussian grids of side, side/2, ... 1, enlarged and summed."""
    total, levels, size = torch.zeros(batch, CHANNELS, side, side, device=device), 0, side
    while size >= 1:
        grid = normal(torch.empty(batch, CHANNELS, size, size, device=device), generator)
        total, levels, size = total + F.interpolate(grid, size=(side, side)), levels + 1, size // 2
    noise: Tensor = total / levels**0.5
    return noise.flatten(2).transpose(1, 2)


class ReadsNoise(TokenTransformer):
    """Put before a transformer's class: it reads noise too. Without noise it is the plain network."""

    extra_input: ClassVar[ExtraInput] = "noise"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.noise_projection = nn.Linear(CHANNELS, config.width, bias=False)
        nn.init.zeros_(self.noise_projection.weight)

    def forward(
        self,
        tokens: Tensor,
        condition: Tensor,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Logits as the plain network's; `noise` [B, L, CHANNELS] is added to the token embeddings, projected."""
        image = self.embedded(tokens, embedding_noise, generator)
        if noise is not None:  # drawn in float32, also for weights that are not
            image = image + self.noise_projection(noise.to(self.noise_projection.weight.dtype))
        return self.scores(image, condition)

    def draw_inputs(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"noise": pyramid(batch, isqrt(self.config.seq_len), generator, self.tok_emb.weight.device)}
