"""MaskGen-L and -XL (VQ), text to image at 256 px: 128 codes of TA-TiTok, whose decoder reads the caption too."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.conditioning import Condition, TextCondition
from fpd_core.config import Config, Flag, Location, Number, check_codes
from fpd_core.containers import load_public
from fpd_core.networks.clip_text import ClipText, ClipTextConfig
from fpd_core.networks.maskgen import MaskGen, MaskGenConfig
from fpd_core.networks.synthetic import fill_synthetic
from fpd_core.networks.tatitok import TaTiTok, TaTiTokConfig
from fpd_core.teachers.teacher import SamplerConfig
from fpd_core.teachers.text_conditional import CaptionCache, TextConditionalTeacher, TextTeacherConfig
from fpd_core.weights import RequiredFile, place_of, require, weight_file

TOKENIZER, TEXT = (weight_file("maskgen", role) for role in ("tokenizer", "text_encoder"))
TRANSFORMERS = {"l": weight_file("maskgen", "transformer"), "xl": weight_file("maskgen", "transformer_xl")}
SIZES: dict[str, dict[str, int]] = {"l": {}, "xl": {"width": 1280, "depth": 20, "num_heads": 16, "mlp_width": 5120}}

Score = Annotated[Number, Field(ge=0, le=10)]  # LAION's aesthetic scale


class MaskGenTeacherConfig(TextTeacherConfig):
    """The public files; `fpd-train weights pull maskgen` fetches them."""

    name: Literal["maskgen"] = "maskgen"
    size: Literal["l", "xl"] = Field("l", description="0.6 or 1.1 billion parameters; the rest is the same.")
    transformer: Location = Field(
        TRANSFORMERS["l"].local, description="MaskGen-L VQ, safetensors or .bin, or that of the size asked for."
    )
    tokenizer: Location = Field(TOKENIZER.local, description="TA-TiTok BL128 VQ, safetensors or .bin")
    text_encoder: Location = Field(TEXT.local, description="CLIP ViT-L/14-336 in open_clip's or transformers' naming")
    quick_gelu: Flag = Field(True, description="Activation of the text tower; OpenAI's weights were trained with it.")
    aesthetic_score: Score = Field(6.5, description="Micro-condition of both guidance branches, and of the student.")
    checkpoint_activations: Flag = Field(False, description="Recompute the student's blocks in backward.")
    weights: Literal["public", "synthetic"] = Field(
        "public", description="`synthetic` fills the full-size networks by formula, to prove and profile the path."
    )

    @classmethod
    def places(cls, given: Mapping[str, Any]) -> dict[str, Path]:
        return place_of("transformer", TRANSFORMERS, given.get("size", "l"))

    def required_files(self) -> list[RequiredFile]:
        """Published files this teacher needs."""
        if self.weights == "synthetic":
            return []
        places = ((self.transformer, TRANSFORMERS[self.size]), (self.tokenizer, TOKENIZER), (self.text_encoder, TEXT))
        return [RequiredFile(path, file) for path, file in places]


class MaskGenArchitecture(Config):
    """Sizes of transformer, tokenizer and text tower, and the score that the student was trained with."""

    name: Literal["maskgen"] = "maskgen"
    network: MaskGenConfig
    tokenizer: TaTiTokConfig
    text: ClipTextConfig
    aesthetic_score: Score

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        network, tokenizer, text = self.network, self.tokenizer, self.text
        check_codes(network.codebook_size, tokenizer.codebook_size)
        pairs = {
            "seq_len of network and tokenizer": (network.seq_len, tokenizer.seq_len),
            "network.text_width and text.width": (network.text_width, text.width),
            "network.pooled_width and text.projection_width": (network.pooled_width, text.projection_width),
            "tokenizer.text_width and text.width": (tokenizer.text_width, text.width),
            "tokenizer.text_len and text.context_len": (tokenizer.text_len, text.context_len),
        }
        for what, (a, b) in pairs.items():
            if a != b:
                raise ValueError(f"{what} differ: {a} and {b}")
        return self


class MaskGenTeacher(TextConditionalTeacher):
    """128 tokens of 8192 codes, images [B, 3, 256, 256]. The generator reads other text features than the decoder."""

    label_smoothing = 0.1

    def __init__(self, network: MaskGen, tokenizer: TaTiTok, text: ClipText, aesthetic_score: float) -> None:
        super().__init__()
        self.network, self.tokenizer, self.text = network, tokenizer, text
        self.mask_id, self.seq_len = network.config.mask_id, network.config.seq_len
        self.image_size = tokenizer.config.image_size
        self.aesthetic_score = aesthetic_score
        # The authors' inference config: s = 12 in c + s (c - u), rising from 1 along a cosine.
        self.sampler = SamplerConfig(
            guidance_scale=13.0,
            guidance_start=2.0,
            guidance_ramp="cosine",
            softmax_temperature=0.5,
            softmax_temperature_start=1.3,
            confidence="logit",
            confidence_temperature=2.0,
            annealed_draws=True,
            first_progress="one_step",
            schedule="arccos",
            rule="floor",
        )
        self.refine_guidance = None  # follows the ramp at the re-masked share
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: MaskGenTeacherConfig) -> "MaskGenTeacher":
        """The public teacher. Raises CheckpointError: a file is absent, damaged or not this model."""
        require(config.required_files())
        teacher = cls(
            MaskGen(MaskGenConfig(checkpoint_activations=config.checkpoint_activations, **SIZES[config.size])),
            TaTiTok(TaTiTokConfig()),
            ClipText(ClipTextConfig(quick_gelu=config.quick_gelu)),
            config.aesthetic_score,
        )
        teacher.captions = CaptionCache(config.caption_cache)
        parts = (
            (teacher.network, config.transformer),
            (teacher.tokenizer, config.tokenizer),
            (teacher.text, config.text_encoder),
        )
        for module, path in parts:
            if config.weights == "synthetic":
                fill_synthetic(module)
            else:
                load_public(module, path)
        return teacher

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "MaskGenTeacher":
        sizes = MaskGenArchitecture.model_validate(architecture)
        return cls(MaskGen(sizes.network), TaTiTok(sizes.tokenizer), ClipText(sizes.text), sizes.aesthetic_score)

    def architecture(self) -> dict[str, Any]:
        assert isinstance(self.network, MaskGen)
        return MaskGenArchitecture(
            network=self.network.config,
            tokenizer=self.tokenizer.config,
            text=self.text.config,
            aesthetic_score=self.aesthetic_score,
        ).model_dump()

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        return self.tokenizer.codebook

    def read(self, ids: Tensor) -> TextCondition:
        penultimate, pooled, final = self.text(ids)
        return TextCondition(penultimate, pooled, final)

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
        score = torch.full(tokens.shape[:1], self.aesthetic_score, device=self.device)
        return self._run(network, tokens, condition.tokens, condition.pooled, score, embedding_noise, generator)

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        assert isinstance(condition, TextCondition)
        return self.tokenizer.decode(embeddings, condition.decoder)

    def tokenize(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> tokens [B, L]."""
        return self.tokenizer.encode(images)
