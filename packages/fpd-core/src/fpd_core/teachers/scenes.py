"""The bundled text-to-image world: emoji scenes, a masked transformer over an 8x8 grid of codes, a small text tower."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.checkpoints import load_strict, read_config, read_weights
from fpd_core.conditioning import Condition, TextCondition
from fpd_core.networks.patch_tokenizer import PatchTokenizer, PatchTokenizerConfig
from fpd_core.networks.scene_text import SceneText, SceneTextConfig
from fpd_core.networks.scene_transformer import SceneTransformer, SceneTransformerConfig
from fpd_core.scenes.layouts import IMAGE_SIZE
from fpd_core.teachers.teacher import SamplerConfig, TeacherConfig
from fpd_core.teachers.text_conditional import TextConditionalTeacher


class ScenesConfig(TeacherConfig):
    """Where the trained teacher lies."""

    name: Literal["scenes"] = "scenes"
    path: Path = Field(
        Path("assets/scenes/teacher"), description="Weight folder of transformer, tokenizer and text tower."
    )


class ScenesTeacher(TextConditionalTeacher):
    """Captions in GenEval's grammar, 64 tokens of 1024 codes, images [B, 3, 64, 64]."""

    network: SceneTransformer

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
        teacher = cls.from_architecture(read_config(config.path)["architecture"])
        load_strict(teacher, read_weights(config.path), str(config.path))
        return teacher

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "ScenesTeacher":
        return cls(
            SceneTransformer(SceneTransformerConfig.model_validate(architecture["network"])),
            PatchTokenizer(PatchTokenizerConfig.model_validate(architecture["tokenizer"])),
            SceneText(SceneTextConfig.model_validate(architecture["text"])),
        )

    def architecture(self) -> dict[str, Any]:
        return {
            "name": "scenes",
            "network": self.network.config.model_dump(),
            "tokenizer": self.tokenizer.config.model_dump(),
            "text": self.text.config.model_dump(mode="json"),
        }

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        return self.tokenizer.codebook

    def encode(self, prompts: Sequence[str]) -> TextCondition:
        words, pooled, plan = self._features(prompts)
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
        assert isinstance(condition, TextCondition)
        return self._run(network, tokens, condition.tokens, embedding_noise, generator)

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return self.tokenizer.decode(embeddings)
