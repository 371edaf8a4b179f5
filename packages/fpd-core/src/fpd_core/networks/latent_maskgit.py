"""Di4C's student: the MaskGIT transformer with one more input token that carries λ in [0, 1] (arXiv 2410.08709).

State-dict keys are MaskGIT's and `latent_projection`, so a teacher's weights fill all but the new layers.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from fpd_core.draws import uniform
from fpd_core.networks.maskgit import ExtraInput, MaskGit, MaskGitConfig

SINUSOIDS, HIDDEN = 128, 512


def sinusoids(latent: Tensor) -> Tensor:
    """λ [B] -> [B, 128] in its dtype: sines, then cosines, of 1000 λ at 64 frequencies 10000^(-k/63)."""
    half = SINUSOIDS // 2
    # The original's frequencies are float32: at 1000 λ that is seen in the fifth digit.
    frequencies = (torch.arange(half, device=latent.device) * -(math.log(10_000) / (half - 1))).exp().to(latent.dtype)
    angles = 1000 * latent[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class LatentMaskGit(MaskGit):
    """Tokens, classes and λ -> logits; without λ it is the plain network."""

    extra_input: ClassVar[ExtraInput] = "latent"

    def __init__(self, config: MaskGitConfig) -> None:
        super().__init__(config)
        self.latent_projection = nn.Sequential(nn.Linear(SINUSOIDS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, config.width))

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
        latent: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, L, K + 1] as `MaskGit`; `latent` [B] is λ, a token behind the class, without a position."""
        image = self.embedded(tokens, embedding_noise, generator)
        appended = None
        if latent is not None:  # λ is float32, also for weights that are not
            appended = self.latent_projection(sinusoids(latent).to(image.dtype))[:, None]
        return self.scores(image, labels, appended)

    def draw_inputs(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """λ ~ U(0, 1), [batch]."""
        return {"latent": uniform(batch, generator=generator, device=self.bias.device)}
