"""What every generator family offers: tokens to logits, guided logits, embeddings to images."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.conditioning import Condition
from fpd_core.config import Config, Flag, Guidance, Number, Temperature
from fpd_core.guidance import GuidanceRamp, RefinementGuidance, guided
from fpd_core.schedules import RevealRule, Schedule, progress_at
from fpd_core.weights import RequiredFile


class TeacherConfig(Config):
    """Base of a family's config section: which family, and where its weights lie."""

    name: str

    def required_files(self) -> list[RequiredFile]:
        """Published files that loading opens; empty for a family whose weights are not published by others."""
        return []

    def weight_files(self) -> list[Path]:
        """All files that the weights are read from."""
        return [required.path for required in self.required_files()]


EXAMPLE_PROMPTS = (
    *("a photo of a red apple", "a photo of two dogs", "an oil painting of a lighthouse", "a blue car in the snow"),
    *("a bowl of noodles", "a mountain lake at dawn", "a portrait of an old sailor", "a green parrot on a branch"),
    *("a city street at night", "a wooden chair"),
)


class SamplerConfig(Config):
    """How a family is sampled in many steps; each family has defaults of its own.

    Progress runs from 0 (all masked) to 1; guidance and softmax temperature may move with it.
    """

    guidance_scale: Guidance = Field(2.0, description="g of u + g (c - u), at the last step; 1 is no guidance.")
    guidance_start: Guidance | None = Field(None, description="g at progress 0; by default the scale is constant.")
    guidance_ramp: Literal["linear", "cosine"] = Field("linear", description="How g moves from start to end.")
    softmax_temperature: Temperature = Field(1.0, description="Divides the guided logits, at the last step.")
    softmax_temperature_start: Temperature | None = Field(None, description="At progress 0; by default constant.")
    confidence: Literal["probability", "logit"] = Field("probability", description="What ranks the drawn tokens.")
    confidence_temperature: Number = Field(
        4.5, ge=0, le=1e3, description="Gumbel noise on the ranking; falls linearly to 0."
    )
    annealed_draws: Flag = Field(
        False, description="Draw tokens at the temperature of the ranking noise, greedily at its end; else at 1."
    )
    first_progress: Literal["zero", "one_step"] = Field(
        "zero", description="Progress at step k of N: k/(N-1), or (k+1)/N as in MaskGen."
    )
    schedule: Schedule = "arccos"
    rule: RevealRule = "corrected"

    def progress(self, step: int, steps: int) -> float:
        """Progress at step 0 <= step < steps."""
        if self.first_progress == "one_step":
            return (step + 1) / steps
        return step / (steps - 1) if steps > 1 else 1.0

    def guidance_at(self, progress: Tensor) -> Tensor:
        """g at progress in [0, 1], any shape."""
        start = self.guidance_scale if self.guidance_start is None else self.guidance_start
        share = progress if self.guidance_ramp == "linear" else (1 - torch.cos(math.pi * progress)) / 2
        return start + (self.guidance_scale - start) * share

    def softmax_temperature_at(self, progress: Tensor) -> Tensor:
        """Divisor of the guided logits at progress in [0, 1], any shape."""
        end = self.softmax_temperature
        start = end if self.softmax_temperature_start is None else self.softmax_temperature_start
        return start + (end - start) * progress


class Teacher(nn.Module, ABC):
    """A frozen masked-diffusion generator: transformer, codebook and decoder.

    The module is in eval mode and without gradients for good; a student is a trainable copy of `network`.

    Attributes:
        network: the transformer.
        codebook: E [K, d] float32.
        mask_id: the token that stands for "not known yet"; not a code.
        seq_len: L.
        num_classes: classes of a class-conditional family; None for a text-conditional one.
        example_prompts: what sample grids of a text-conditional family show, one column each.
        image_size: height and width of the images.
        sampler: defaults of the multi-step sampler.
        refine_guidance: g of the one-step refinement (eq. 5); None follows the sampler's ramps at the progress where
            the sampler would have the re-masked share open.
        label_smoothing: ε in [0, 1) of the cross-entropy that the transformer was trained with: its distributions hold
            a uniform share ε that is no knowledge. A network trained beside it (Di[M]O's auxiliary) takes the same ε.
        autocast: run transformers, the student's too, in bfloat16 where the operation allows it.
    """

    network: nn.Module
    codebook: Tensor
    mask_id: int
    seq_len: int
    num_classes: int | None
    example_prompts: tuple[str, ...] = EXAMPLE_PROMPTS
    image_size: int
    sampler: SamplerConfig
    refine_guidance: float | None
    label_smoothing: float = 0.0
    autocast: bool = False

    @property
    def codebook_size(self) -> int:
        return len(self.codebook)

    @property
    def device(self) -> torch.device:
        return self.codebook.device

    def train(self, mode: bool = True) -> Self:
        """Frozen networks stay in eval mode whatever a parent module does."""
        return super().train(False)

    @classmethod
    @abstractmethod
    def load(cls, config: Any) -> Self:
        """The trained teacher of a config section. Raises CheckpointError: a file is absent, damaged or another's."""

    @abstractmethod
    def condition(self, wanted: Any) -> Condition:
        """What a user or a data source asks for, as the condition the networks read.

        Args:
            wanted: labels (numbers, a tensor, a ClassCondition) or prompts (strings, a PromptCondition).

        Raises:
            ValueError: out of range, or not what this family understands.
        """

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
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """Modules with untrained weights, for loading a state dict; also called on the meta device.

        Raises:
            ValidationError: sizes that make no sense.
        """

    def with_network(self, network: nn.Module) -> Self:
        """The same frozen parts around another transformer of this family; nothing is copied."""
        other = copy(self)
        other._modules = self._modules | {"network": network}
        return other

    def guided_logits(
        self,
        tokens: Tensor,
        condition: Condition,
        guidance_scale: float | Tensor,
        *,
        network: Callable[..., Tensor] | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Classifier-free guidance: u + g (c - u), so g = 1 is the plain conditional model and costs one branch.

        MaskGIT's w and MaskGen's s, which both write c + w (c - u), are g - 1.

        Args:
            guidance_scale: g, one number or one per image [B].
            network, embedding_noise, generator: as in `logits`, of both branches.
        """
        scores = partial(self.logits, tokens, network=network, embedding_noise=embedding_noise, generator=generator)
        conditional = scores(condition)
        if not isinstance(guidance_scale, Tensor) and guidance_scale == 1:
            return conditional
        return guided(conditional, scores(self.null_condition(condition)), guidance_scale)

    def refinement(
        self, ratio: Tensor, guidance_scale: RefinementGuidance | None, temperature: float | None
    ) -> tuple[float | Tensor, float | Tensor]:
        """Guidance g and softmax temperature of the one-step refinement at re-masked shares `ratio` [B] (eq. 5).

        Args:
            guidance_scale, temperature: given values stand; None is the family's own rule. Guidance "sampler" is what
                the teacher samples with where it would have the share `ratio` open.
        """
        progress = progress_at(ratio, self.sampler.schedule)
        if isinstance(guidance_scale, GuidanceRamp):
            g: float | Tensor | None = guidance_scale.at(ratio)
        elif guidance_scale == "sampler":
            g = None
        else:
            g = self.refine_guidance if guidance_scale is None else guidance_scale
        if temperature is None:
            ramped = self.sampler.softmax_temperature_start is not None
            temperature = None if ramped else 1.0
        return (
            self.sampler.guidance_at(progress) if g is None else g,
            self.sampler.softmax_temperature_at(progress) if temperature is None else temperature,
        )

    def _run(self, network: Callable[..., Tensor] | None, *inputs: Any) -> Tensor:
        """A transformer's output in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return (network or self.network)(*inputs).float()
