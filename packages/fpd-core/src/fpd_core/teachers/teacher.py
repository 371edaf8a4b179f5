"""What every generator family offers: tokens to logits, guided logits, embeddings to images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import ValidationError, model_validator
from torch import Tensor, nn

from fpd_core.conditioning import Condition
from fpd_core.config import Config, ConfigError, explain
from fpd_core.guidance import GuidanceRamp, RefinementGuidance, guided
from fpd_core.schedules import progress_at
from fpd_core.teachers.sampler_config import SAMPLERS, Sampler, SamplerConfig
from fpd_core.weights import RequiredFile

__all__ = ["BUNDLED_HALTON", "SamplerConfig", "Teacher", "TeacherConfig"]
# The bundled worlds' Halton rows were measured with these.
BUNDLED_HALTON: Mapping[str, Any] = {"rule": "corrected", "shift": True}


class TeacherConfig(Config):
    """Base of a family's config section: which family, and where its weights lie."""

    name: str

    @classmethod
    def places(cls, given: Mapping[str, Any]) -> dict[str, Path]:
        """Paths that other fields of the section decide, such as the file of a size, where none is given for them."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _fill_places(cls, data: Any) -> Any:
        return {**cls.places(data), **data} if isinstance(data, Mapping) else data

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
        halton_changes: fields of `sampler` that are others in Halton order.
        default_sampler: which order it fixes tokens in where nobody asks for another.
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
    default_sampler: Sampler = "confidence"
    # The authors' Halton sampler: a plan of its own and one guidance throughout.
    halton_changes: ClassVar[Mapping[str, Any]] = {"rule": "truncated", "guidance_start": None}
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

    def sampler_options(self, sampler: Sampler, changed: Mapping[str, Any]) -> SamplerConfig:
        """The family's defaults for a multi-step sampler, with the fields `changed`.

        Raises:
            ConfigError: unknown sampler or field, or a wrong value.
        """
        if sampler not in SAMPLERS:
            raise ConfigError(f"unknown sampler {sampler!r}; known: {', '.join(SAMPLERS)}")
        own = self.halton_changes if sampler == "halton" else {}
        try:
            return SamplerConfig.model_validate({**self.sampler.model_dump(), **own, **changed})
        except ValidationError as error:
            raise explain(error, "sampler options") from None

    def at_timestep(self, condition: Condition, timestep: int) -> Condition:
        """The condition of a sampler's step, for a network that reads a timestep.

        Args:
            timestep: N-1 in the first of N steps, 0 in the last.

        Raises:
            ValueError: this family's network reads none.
        """
        raise ValueError(f"the network of {type(self).__name__} reads no timestep; leave out the sampler's")

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
        null: Condition | None = None,
        *,
        network: Callable[..., Tensor] | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Classifier-free guidance: u + g (c - u), so g = 1 is the plain conditional model and costs one branch.

        MaskGIT's w and MaskGen's s, which both write c + w (c - u), are g - 1.

        Args:
            guidance_scale: g, one number or one per image [B].
            null: what u reads; None is the family's null condition.
            network, embedding_noise, generator: as in `logits`, of both branches.
        """
        scores = partial(self.logits, tokens, network=network, embedding_noise=embedding_noise, generator=generator)
        conditional = scores(condition)
        if not isinstance(guidance_scale, Tensor) and guidance_scale == 1:
            return conditional
        null = self.null_condition(condition) if null is None else null
        return guided(conditional, scores(null), guidance_scale)

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
        # The meta device knows no autocast, and computes nothing.
        kind = "cpu" if self.device.type == "meta" else self.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.autocast):
            return (network or self.network)(*inputs).float()
