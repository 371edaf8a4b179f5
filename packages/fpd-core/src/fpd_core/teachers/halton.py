"""Halton-MaskGIT v2 on ImageNet (Besnier et al.): 1000 classes, 16x16 or 24x24 codes of LlamaGen's VQ-16."""

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Config, Guidance, Location, Size, check_codes
from fpd_core.containers import load_public
from fpd_core.networks.halton import HaltonConfig, HaltonMaskGit
from fpd_core.networks.synthetic import fill_synthetic
from fpd_core.networks.vqgan import VqGan, VqGanConfig
from fpd_core.teachers.class_conditional import ClassConditionalTeacher
from fpd_core.teachers.teacher import SamplerConfig, TeacherConfig
from fpd_core.weights import RequiredFile, WeightFile, place_of, require, weight_file

SIDE = 16  # pixels of a code
TOKENIZER = weight_file("halton", "tokenizer")
LLAMAGEN_VQ16 = VqGanConfig(codebook_size=16384, code_dim=8, latent_channels=256, unit_codes=True)
NETWORKS = {
    "tiny": HaltonConfig(width=384, depth=6, num_heads=6, mlp_width=1024),
    "small": HaltonConfig(width=512, depth=12, num_heads=6, mlp_width=1536),
    "base": HaltonConfig(),
    "large": HaltonConfig(width=1024, depth=24, num_heads=16, mlp_width=2816),
}
# g of the authors' table: 1 + w in their (1 + w) c - w u, the same at every step.
GUIDANCE = {"tiny": 2.5, "small": 2.0, "base": 1.7, "large": 1.5}
TRANSFORMERS: dict[tuple[str, int], WeightFile] = {
    ("base", 256): weight_file("halton", "transformer"),
    **{
        (size, pixels): weight_file("halton", f"{size}_{pixels}")
        for size, pixels in (("tiny", 256), ("small", 256), ("small", 384), ("base", 384), ("large", 384))
    },
}


class HaltonTeacherConfig(TeacherConfig):
    """The public files; `fpd-train weights pull halton` fetches those of the base model for 256 px."""

    name: Literal["halton"] = "halton"
    size: Literal["tiny", "small", "base", "large"] = Field("base", description="23, 69, 142 or 480 M parameters.")
    image_size: Size = Field(256, description="Pixels, 256 or 384; the models of both are trained apart.")
    transformer: Location = Field(
        TRANSFORMERS["base", 256].local, description="ImageNet_256_base.pth, or that of the size asked for."
    )
    tokenizer: Location = Field(TOKENIZER.local, description="LlamaGen's vq_ds16_c2i.pt")
    weights: Literal["public", "synthetic"] = Field(
        "public", description="`synthetic` fills the full-size networks by formula, to prove and profile the path."
    )

    @classmethod
    def places(cls, given: Mapping[str, Any]) -> dict[str, Path]:
        return place_of("transformer", TRANSFORMERS, (given.get("size", "base"), given.get("image_size", 256)))

    @model_validator(mode="after")
    def _published(self) -> Self:
        if (self.size, self.image_size) not in TRANSFORMERS:
            known = ", ".join(f"{size} at {pixels}" for size, pixels in TRANSFORMERS)
            raise ValueError(f"there is no {self.size} model for {self.image_size} px; published are {known}")
        return self

    def required_files(self) -> list[RequiredFile]:
        """Published files this teacher needs."""
        if self.weights == "synthetic":
            return []
        transformer = TRANSFORMERS[self.size, self.image_size]
        return [RequiredFile(self.transformer, transformer), RequiredFile(self.tokenizer, TOKENIZER)]


class HaltonArchitecture(Config):
    """Sizes of transformer and tokenizer, and the guidance of the model."""

    name: Literal["halton"] = "halton"
    network: HaltonConfig
    tokenizer: VqGanConfig
    guidance_scale: Guidance

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        check_codes(self.network.codebook_size, self.tokenizer.codebook_size)
        if isqrt(self.network.seq_len) ** 2 != self.network.seq_len:
            raise ValueError(f"network.seq_len {self.network.seq_len} is not the codes of a square")
        return self


class HaltonTeacher(ClassConditionalTeacher):
    """256 or 576 tokens of 16384 codes, images [B, 3, 256, 256] or [B, 3, 384, 384]."""

    network: HaltonMaskGit
    default_sampler = "halton"

    def __init__(self, network: HaltonMaskGit, tokenizer: VqGan, guidance_scale: float) -> None:
        super().__init__(network)
        self.tokenizer = tokenizer
        self.image_size = 2 ** (len(tokenizer.config.multipliers) - 1) * isqrt(self.seq_len)
        # As in the authors' evaluation, where nothing ramps, but for its first step, which is twice as hot.
        self.sampler = SamplerConfig(guidance_scale=guidance_scale, schedule="arccos", rule="truncated")
        self.refine_guidance = guidance_scale
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: HaltonTeacherConfig) -> "HaltonTeacher":
        """The public teacher. Raises CheckpointError: a file is absent, damaged or not this model."""
        require(config.required_files())
        sizes = NETWORKS[config.size].model_copy(update={"seq_len": (config.image_size // SIDE) ** 2})
        teacher = cls(HaltonMaskGit(sizes), VqGan(LLAMAGEN_VQ16), GUIDANCE[config.size])
        if config.weights == "synthetic":
            fill_synthetic(teacher.network)
            fill_synthetic(teacher.tokenizer)
        else:
            load_public(teacher.network, config.transformer)
            load_public(teacher.tokenizer, config.tokenizer)
        return teacher

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "HaltonTeacher":
        sizes = HaltonArchitecture.model_validate(architecture)
        return cls(HaltonMaskGit(sizes.network), VqGan(sizes.tokenizer), sizes.guidance_scale)

    def architecture(self) -> dict[str, Any]:
        return HaltonArchitecture(
            network=self.network.config,
            tokenizer=self.tokenizer.config,
            guidance_scale=self.sampler.guidance_scale,
        ).model_dump()

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        return self.tokenizer.codebook

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        return self.tokenizer.decode(embeddings) / 2 + 0.5

    def tokenize(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> tokens [B, L]."""
        return self.tokenizer.encode(images * 2 - 1)
