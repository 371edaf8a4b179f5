"""What every generator family offers: tokens to logits, guided logits, embeddings to images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fpd_core.conditioning import Condition
from fpd_core.config import Config
from fpd_core.schedules import RevealRule, Schedule


class SamplerConfig(Config):
    """How a family is sampled in many steps; each family has defaults of its own."""

    guidance_scale: float = 2.0
    guidance_ramp: bool = False
    confidence_temperature: float = 4.5
    softmax_temperature: float = 1.0
    schedule: Schedule = "arccos"
    rule: RevealRule = "corrected"


class Teacher(nn.Module, ABC):
    """A frozen masked-diffusion generator: transformer, codebook and decoder.

    The module is in eval mode and without gradients for good; a student is a trainable copy of `network`.

    Attributes:
        network: the transformer.
        codebook: E [K, d] float32.
        mask_id: the token that stands for "not known yet"; not a code.
        seq_len: L.
        num_classes: classes of a class-conditional family.
        sampler: defaults of the multi-step sampler.
    """

    network: nn.Module
    codebook: Tensor
    mask_id: int
    seq_len: int
    num_classes: int
    sampler: SamplerConfig

    @property
    def codebook_size(self) -> int:
        return len(self.codebook)

    @property
    def device(self) -> torch.device:
        return self.codebook.device

    def train(self, mode: bool = True) -> "Teacher":
        """Frozen networks stay in eval mode whatever a parent module does."""
        return super().train(False)

    @abstractmethod
    def condition(self, wanted: Any) -> Condition:
        """What a user asks for (labels, prompts) as a typed condition. Raises ValueError: out of range."""

    @abstractmethod
    def null_condition(self, condition: Condition) -> Condition:
        """The unconditional input for a batch of the same size."""

    @abstractmethod
    def logits(
        self,
        tokens: Tensor,
        condition: Condition,
        *,
        network: Callable[..., Tensor] | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[B, L] tokens in [0, K) or `mask_id` -> [B, L, K] over the codes only, float32.

        Args:
            network: runs instead of the frozen one: a student of this family, or the engine that trains it.
            embedding_noise: σ in [0, 1) on the token embeddings.
        """

    @abstractmethod
    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        """Code vectors [B, L, d] -> images [B, 3, H, W] in [0, 1], differentiable, not clamped."""

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """JSON that rebuilds this family's modules; `name` is the registry key."""

    @classmethod
    @abstractmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "Teacher":
        """Modules with untrained weights, for loading a state dict."""

    def guided_logits(self, tokens: Tensor, condition: Condition, guidance_scale: float) -> Tensor:
        """Classifier-free guidance: u + g (c - u), so g = 1 is the plain conditional model and costs one branch.

        MaskGIT's w and MaskGen's s, which both write c + w (c - u), are g - 1.
        """
        if guidance_scale == 1:
            return self.logits(tokens, condition)
        conditional = self.logits(tokens, condition)
        unconditional = self.logits(tokens, self.null_condition(condition))
        return unconditional + guidance_scale * (conditional - unconditional)
