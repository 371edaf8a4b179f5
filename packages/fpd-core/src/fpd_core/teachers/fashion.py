"""The bundled small world: Fashion-MNIST garments, a MaskGIT transformer over an 8x8 grid of codes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from fpd_core.checkpoints import load_strict, read_config, read_weights
from fpd_core.conditioning import Condition
from fpd_core.config import Location
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.vq_tokenizer import VqTokenizer, VqTokenizerConfig
from fpd_core.teachers.class_conditional import ClassConditionalTeacher
from fpd_core.teachers.teacher import SamplerConfig, TeacherConfig

IMAGE_SIZE = 32
CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


class FashionConfig(TeacherConfig):
    """Where the trained teacher lies."""

    name: Literal["fashion"] = "fashion"
    path: Location = Field(Path("assets/fashion/teacher"), description="Weight folder of transformer and tokenizer.")


class FashionTeacher(ClassConditionalTeacher):
    """Ten classes, 64 tokens, images [B, 3, 32, 32] (grey)."""

    def __init__(self, network: MaskGit, tokenizer: VqTokenizer) -> None:
        super().__init__(network)
        self.tokenizer = tokenizer
        self.image_size = IMAGE_SIZE
        self.refine_guidance = 2.0
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

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return self.tokenizer.decode(embeddings)
