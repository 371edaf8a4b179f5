"""The bundled text-to-image world: emoji scenes, a masked transformer over an 8x8 grid of codes, a small text tower."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.checkpoints import WEIGHTS, load_network
from fpd_core.conditioning import Condition, TextCondition, network_input
from fpd_core.config import Config, check_codes
from fpd_core.networks.extra_inputs import network_reading
from fpd_core.networks.patch_tokenizer import PatchTokenizer, PatchTokenizerConfig
from fpd_core.networks.scene_text import SceneText, SceneTextConfig
from fpd_core.networks.scene_transformer import SceneTransformer, SceneTransformerConfig
from fpd_core.networks.token_transformer import ExtraInput
from fpd_core.places import bundled
from fpd_core.scenes.layouts import IMAGE_SIZE
from fpd_core.teachers.teacher import BUNDLED_HALTON, SamplerConfig
from fpd_core.teachers.text_conditional import CaptionCache, TextConditionalTeacher, TextTeacherConfig


class ScenesConfig(TextTeacherConfig):
    """Where the trained teacher lies."""

    name: Literal["scenes"] = "scenes"
    path: Path = Field(
        Path("assets/scenes/teacher"), description="Weight folder of transformer, tokenizer and text tower."
    )

    def weight_files(self) -> list[Path]:
        return [bundled(self.path / WEIGHTS)]


class ScenesArchitecture(Config):
    """Sizes of transformer, tokenizer and text tower."""

    name: Literal["scenes"] = "scenes"
    network: SceneTransformerConfig
    tokenizer: PatchTokenizerConfig
    text: SceneTextConfig
    extra_input: ExtraInput = Field("none", description="What the transformer reads beside tokens and text.")

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        check_codes(self.network.codebook_size, self.tokenizer.codebook_size)
        if (self.text.width, self.text.context_len) != (self.network.text_width, self.network.context_len):
            raise ValueError("the text tower's width and context_len are not those that the network reads")
        if self.network.grid**2 != self.text.num_cells:
            raise ValueError(f"the text tower plans {self.text.num_cells} cells, the network has {self.network.grid}²")
        return self


class ScenesTeacher(TextConditionalTeacher):
    """Captions in GenEval's grammar, 64 tokens of 1024 codes, images [B, 3, 64, 64]."""

    network: SceneTransformer
    halton_changes = BUNDLED_HALTON
    example_prompts = (
        *("a photo of a dog", "a photo of a red apple", "a photo of a pizza and a banana", "a photo of three birds"),
        *("a photo of a cat left of a boat", "a photo of a clock above a chair", "a photo of a blue car"),
        *("a photo of a green cup and a black dog", "a photo of two airplanes", "a photo of a purple umbrella"),
    )

    def __init__(self, network: SceneTransformer, tokenizer: PatchTokenizer, text: SceneText) -> None:
        super().__init__()
        self.network, self.tokenizer, self.text = network, tokenizer, text
        self.mask_id, self.seq_len = network.config.mask_id, network.config.seq_len
        self.image_size = IMAGE_SIZE
        # Best of five settings at 16 steps on prompts kept for choosing (docs/scenes.md).
        self.sampler = SamplerConfig(guidance_scale=1.5, confidence_temperature=1.0)
        self.refine_guidance = 1.5
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: ScenesConfig) -> "ScenesTeacher":
        """The trained teacher. Raises CheckpointError: the folder is absent, damaged or of another family."""
        teacher = load_network(config.path, "architecture", cls.from_architecture)
        teacher.captions = CaptionCache(config.caption_cache)
        return teacher

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "ScenesTeacher":
        sizes = ScenesArchitecture.model_validate(architecture)
        network = network_reading(SceneTransformer, sizes.network, sizes.extra_input)
        return cls(network, PatchTokenizer(sizes.tokenizer), SceneText(sizes.text))

    def architecture(self) -> dict[str, Any]:
        sizes = ScenesArchitecture(
            network=self.network.config,
            tokenizer=self.tokenizer.config,
            text=self.text.config,
            extra_input=self.network.extra_input,
        )
        return sizes.model_dump(mode="json")

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        return self.tokenizer.codebook

    def read(self, ids: Tensor) -> TextCondition:
        words, pooled, plan = self.text(ids)
        return TextCondition(torch.cat([words, plan], dim=1), pooled, words)

    def logits(
        self,
        tokens: Tensor,
        condition: Condition,
        *,
        network: Callable[..., Tensor] | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self._run(network, tokens, network_input(condition), embedding_noise, generator)

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return self.tokenizer.decode(embeddings)

    def tokenize(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> tokens [B, L]."""
        return self.tokenizer.encode(images)
