"""MaskGIT v1 on ImageNet 256 (Besnier and Chen): 1000 classes, 16x16 codes of the taming-transformers VQGAN."""

from collections.abc import Mapping
from math import isqrt
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Config, Location, check_codes
from fpd_core.containers import load_public
from fpd_core.networks.extra_inputs import network_reading
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.synthetic import fill_synthetic
from fpd_core.networks.token_transformer import ExtraInput
from fpd_core.networks.vqgan import VqGan, VqGanConfig
from fpd_core.teachers.class_conditional import ClassConditionalTeacher
from fpd_core.teachers.teacher import SamplerConfig, TeacherConfig
from fpd_core.weights import RequiredFile, require, weight_file

TRANSFORMER, TOKENIZER = weight_file("maskgit", "transformer"), weight_file("maskgit", "tokenizer")


class MaskGitTeacherConfig(TeacherConfig):
    """The public files; `fpd-train weights pull maskgit` fetches them."""

    name: Literal["maskgit"] = "maskgit"
    transformer: Location = Field(TRANSFORMER.local, description="MaskGIT_ImageNet_256.pth")
    tokenizer: Location = Field(TOKENIZER.local, description="VQGAN checkpoint (last.ckpt)")
    weights: Literal["public", "synthetic"] = Field(
        "public", description="`synthetic` fills the full-size networks by formula, to prove and profile the path."
    )

    def required_files(self) -> list[RequiredFile]:
        """Published files this teacher needs."""
        if self.weights == "synthetic":
            return []
        return [RequiredFile(self.transformer, TRANSFORMER), RequiredFile(self.tokenizer, TOKENIZER)]


class MaskGitArchitecture(Config):
    """Sizes of transformer and tokenizer."""

    name: Literal["maskgit"] = "maskgit"
    network: MaskGitConfig
    tokenizer: VqGanConfig
    extra_input: ExtraInput = Field("none", description="What the transformer reads beside tokens and class.")

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        check_codes(self.network.codebook_size, self.tokenizer.codebook_size)
        if isqrt(self.network.seq_len) ** 2 != self.network.seq_len:
            raise ValueError(f"network.seq_len {self.network.seq_len} is not the codes of a square")
        return self


class MaskGitTeacher(ClassConditionalTeacher):
    """256 tokens of 1024 codes, images [B, 3, 256, 256]."""

    label_smoothing = 0.1

    def __init__(self, network: MaskGit, tokenizer: VqGan) -> None:
        super().__init__(network)
        self.tokenizer = tokenizer
        self.image_size = 2 ** (len(tokenizer.config.multipliers) - 1) * round(self.seq_len**0.5)
        # The authors' setting for FID 6.80 at 8 steps: w = 3 in (1 + w) c - w u, rising linearly from 0.
        self.sampler = SamplerConfig(
            guidance_scale=4.0, guidance_start=1.0, confidence_temperature=4.5, schedule="arccos", rule="v1"
        )
        self.refine_guidance = 2.0  # constant, as in Di[M]O
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: MaskGitTeacherConfig) -> "MaskGitTeacher":
        """The public teacher. Raises CheckpointError: a file is absent, damaged or not this model."""
        require(config.required_files())
        teacher = cls(MaskGit(MaskGitConfig()), VqGan(VqGanConfig()))
        if config.weights == "synthetic":
            fill_synthetic(teacher.network)
            fill_synthetic(teacher.tokenizer)
        else:
            load_public(teacher.network, config.transformer)
            load_public(teacher.tokenizer, config.tokenizer)
        return teacher

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "MaskGitTeacher":
        sizes = MaskGitArchitecture.model_validate(architecture)
        return cls(network_reading(MaskGit, sizes.network, sizes.extra_input), VqGan(sizes.tokenizer))

    def architecture(self) -> dict[str, Any]:
        assert isinstance(self.network, MaskGit)
        sizes = MaskGitArchitecture(
            network=self.network.config, tokenizer=self.tokenizer.config, extra_input=self.network.extra_input
        )
        return sizes.model_dump()

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        return self.tokenizer.codebook

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return self.tokenizer.decode(embeddings) / 2 + 0.5

    def tokenize(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> tokens [B, L]."""
        return self.tokenizer.encode(images * 2 - 1)
