"""The bundled small world: Fashion-MNIST garments, a MaskGIT transformer over an 8x8 grid of codes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.checkpoints import load_strict, read_config, read_weights
from fpd_core.conditioning import ClassCondition, Condition
from fpd_core.config import Config
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.vq_tokenizer import VqTokenizer, VqTokenizerConfig
from fpd_core.teachers.teacher import SamplerConfig, Teacher

CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


class FashionConfig(Config):
    """Where the trained teacher lies."""

    name: Literal["fashion"] = "fashion"
    path: Path = Field(Path("assets/fashion/teacher"), description="Weight folder of transformer and tokenizer.")


class FashionTeacher(Teacher):
    """Ten classes, 64 tokens, images [B, 3, 32, 32] (grey)."""

    def __init__(self, network: MaskGit, tokenizer: VqTokenizer) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        self.mask_id, self.seq_len = network.config.mask_id, network.config.seq_len
        self.num_classes = network.config.num_classes
        # Best Fréchet distance at 8 steps among guidance 1-2 and confidence temperatures 2-30 (docs/results.md).
        self.sampler = SamplerConfig(guidance_scale=1.5, confidence_temperature=14.0)
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: FashionConfig) -> "FashionTeacher":
        """The trained teacher. Raises CheckpointError: the folder is absent, damaged or of another family."""
        teacher = cls.from_architecture(read_config(config.path)["architecture"])
        load_strict(teacher, read_weights(config.path), str(config.path))
        return teacher

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "FashionTeacher":
        return cls(
            MaskGit(MaskGitConfig.model_validate(architecture["network"])),
            VqTokenizer(VqTokenizerConfig.model_validate(architecture["tokenizer"])),
        )

    def architecture(self) -> dict[str, Any]:
        assert isinstance(self.network, MaskGit)
        return {
            "name": "fashion",
            "network": self.network.config.model_dump(),
            "tokenizer": self.tokenizer.config.model_dump(),
        }

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        return self.tokenizer.codebook

    def condition(self, wanted: Any) -> Condition:
        labels = torch.as_tensor(wanted, device=self.device).long().flatten()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"labels must lie in 0 to {self.num_classes - 1}, got {labels.unique().tolist()}")
        return ClassCondition(labels)

    def null_condition(self, condition: Condition) -> Condition:
        return ClassCondition(torch.full_like(condition.labels, self.num_classes))

    def logits(
        self,
        tokens: Tensor,
        condition: Condition,
        *,
        network: Callable[..., Tensor] | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        scores = (network or self.network)(tokens, condition.labels, embedding_noise, generator)
        # The last column scores the mask id, which is no code and must never be drawn.
        return scores[..., : self.codebook_size].float()

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return self.tokenizer.decode(embeddings)
