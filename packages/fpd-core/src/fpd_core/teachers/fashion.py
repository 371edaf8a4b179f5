"""The bundled small world: Fashion-MNIST garments, a MaskGIT transformer over an 8x8 grid of codes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.checkpoints import WEIGHTS, load_network
from fpd_core.conditioning import Condition
from fpd_core.config import Config, Location, check_codes
from fpd_core.networks.extra_inputs import network_reading
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.token_transformer import ExtraInput
from fpd_core.networks.vq_tokenizer import VqTokenizer, VqTokenizerConfig
from fpd_core.places import bundled
from fpd_core.teachers.class_conditional import ClassConditionalTeacher
from fpd_core.teachers.teacher import BUNDLED_HALTON, SamplerConfig, TeacherConfig

IMAGE_SIZE, SEQ_LEN = 32, 64
CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


class FashionConfig(TeacherConfig):
    """Where the trained teacher lies."""

    name: Literal["fashion"] = "fashion"
    path: Location = Field(Path("assets/fashion/teacher"), description="Weight folder of transformer and tokenizer.")

    def weight_files(self) -> list[Path]:
        return [bundled(Path(self.path) / WEIGHTS)]


class FashionArchitecture(Config):
    """Sizes of transformer and tokenizer."""

    name: Literal["fashion"] = "fashion"
    network: MaskGitConfig
    tokenizer: VqTokenizerConfig
    extra_input: ExtraInput = Field("none", description="What the transformer reads beside tokens and class.")

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        check_codes(self.network.codebook_size, self.tokenizer.codebook_size)
        if self.network.seq_len != SEQ_LEN:
            raise ValueError(f"network.seq_len must be {SEQ_LEN}, the tokenizer's 8 x 8 codes")
        return self


class FashionTeacher(ClassConditionalTeacher):
    """Ten classes, 64 tokens, images [B, 3, 32, 32] (grey)."""

    halton_changes = BUNDLED_HALTON

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
        return load_network(config.path, "architecture", cls.from_architecture)

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "FashionTeacher":
        sizes = FashionArchitecture.model_validate(architecture)
        return cls(network_reading(MaskGit, sizes.network, sizes.extra_input), VqTokenizer(sizes.tokenizer))

    def architecture(self) -> dict[str, Any]:
        assert isinstance(self.network, MaskGit)
        sizes = FashionArchitecture(
            network=self.network.config, tokenizer=self.tokenizer.config, extra_input=self.network.extra_input
        )
        return sizes.model_dump()

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        return self.tokenizer.codebook

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return self.tokenizer.decode(embeddings)

    def tokenize(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> tokens [B, L]."""
        return self.tokenizer.encode(images)
