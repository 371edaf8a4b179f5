"""Meissonic, text to image at 1024 px: 64x64 codes of a diffusers VQModel, captions read by OpenCLIP ViT-H/14."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from fpd_core.checkpoints import CheckpointError
from fpd_core.conditioning import Condition, TextCondition
from fpd_core.config import Codes, Config, ConfigError, Depth, Flag, Location, Number, Size, check_codes, explain
from fpd_core.containers import load_public
from fpd_core.networks.clip_text import END_TOKEN, ClipText, ClipTextConfig
from fpd_core.networks.meissonic import Meissonic, MeissonicConfig
from fpd_core.teachers.teacher import SamplerConfig
from fpd_core.teachers.text_conditional import CaptionCache, TextConditionalTeacher, TextTeacherConfig
from fpd_core.untrusted import read_json
from fpd_core.weights import RequiredFile, place_of, require, weight_file

TRANSFORMER, TOKENIZER, TOKENIZER_CONFIG = (
    weight_file("meissonic", role) for role in ("transformer", "tokenizer", "tokenizer_config")
)
TOWERS = {
    "meissonic": weight_file("meissonic", "text_encoder"),
    "laion": weight_file("meissonic", "text_encoder_laion"),
}
VIT_H_14 = ClipTextConfig(width=1024, depth=24, num_heads=16, projection_width=1024, quick_gelu=False, pad_id=END_TOKEN)
AESTHETIC_SCORE = 6.0


class MeissonicTeacherConfig(TextTeacherConfig):
    """The public files; `fpd-train weights pull meissonic` fetches them."""

    name: Literal["meissonic"] = "meissonic"
    transformer: Location = Field(TRANSFORMER.local, description="transformer/diffusion_pytorch_model.safetensors")
    tokenizer: Location = Field(TOKENIZER.local, description="vqvae/diffusion_pytorch_model.safetensors")
    tokenizer_config: Location = Field(TOKENIZER_CONFIG.local, description="vqvae/config.json")
    tower: Literal["meissonic", "laion"] = Field(
        "meissonic",
        description="Text tower: the one published beside the transformer, or laion/CLIP-ViT-H-14-laion2B-s32B-b79K, "
        "which the authors' inference script takes.",
    )
    text_encoder: Location = Field(
        TOWERS["meissonic"].local, description="text_encoder/model.safetensors, or that of the tower asked for."
    )
    checkpoint_activations: Flag = Field(False, description="Recompute the student's blocks in backward.")

    @classmethod
    def places(cls, given: Mapping[str, Any]) -> dict[str, Path]:
        return place_of("text_encoder", TOWERS, given.get("tower", "meissonic"))

    def required_files(self) -> list[RequiredFile]:
        """Published files this teacher needs."""
        return [
            RequiredFile(self.transformer, TRANSFORMER),
            RequiredFile(self.tokenizer, TOKENIZER),
            RequiredFile(self.tokenizer_config, TOKENIZER_CONFIG),
            RequiredFile(self.text_encoder, TOWERS[self.tower]),
        ]


_Channels = Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]


class VqModelConfig(Config):
    """A `vqvae/config.json`: the arguments of diffusers' VQModel, with its defaults."""

    in_channels: Size = 3
    out_channels: Size = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    block_out_channels: _Channels = (64,)
    layers_per_block: Depth = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: Size = 3
    sample_size: Size = 32
    num_vq_embeddings: Codes = 256
    norm_num_groups: Size = 32
    vq_embed_dim: Size | None = None
    scaling_factor: Number = Field(0.18215, gt=0, le=1e3)
    norm_type: Literal["group", "spatial"] = "group"
    mid_block_add_attention: Flag = True
    lookup_from_codebook: Flag = False
    force_upcast: Flag = False

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        levels = len(self.block_out_channels)
        if len(self.down_block_types) != levels or len(self.up_block_types) != levels:
            raise ValueError(f"down_block_types and up_block_types must name {levels} blocks, as block_out_channels")
        if any(width % self.norm_num_groups for width in self.block_out_channels):
            raise ValueError(f"norm_num_groups {self.norm_num_groups} does not divide all block_out_channels")
        return self


class MeissonicArchitecture(Config):
    """Sizes of transformer, tokenizer and text tower."""

    name: Literal["meissonic"] = "meissonic"
    network: MeissonicConfig
    tokenizer: VqModelConfig
    text: ClipTextConfig

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        check_codes(self.network.codebook_size, self.tokenizer.num_vq_embeddings)
        wanted = (self.network.text_width, self.network.pooled_width)
        found = (self.text.width, self.text.projection_width)
        if wanted != found:
            raise ValueError(f"the network reads text features of widths {wanted}, the text tower makes {found}")
        return self


def vq_model(arguments: Mapping[str, Any]) -> Any:
    """diffusers' VQModel of a `vqvae/config.json`; its annotations hide that it is a module.

    Raises:
        ConfigError: diffusers is not installed.
        ValidationError: arguments that make no sense.
    """
    try:
        from diffusers import VQModel
    except ModuleNotFoundError:
        raise ConfigError("Meissonic's tokenizer needs diffusers: pip install 'fpd-core[meissonic]'") from None
    build: Callable[..., Any] = VQModel
    return build(**_vq_config(arguments).model_dump())


def _vq_config(arguments: Mapping[str, Any]) -> VqModelConfig:
    """Without what diffusers notes of itself, such as `_class_name`."""
    return VqModelConfig.model_validate({key: value for key, value in arguments.items() if not key.startswith("_")})


@dataclass(frozen=True)
class TimedCondition(TextCondition):
    """A caption at a step of the public sampler, whose index [B] the network is told as timestep."""

    timestep: Tensor


class MeissonicTeacher(TextConditionalTeacher):
    """4096 tokens of 8192 codes, images [B, 3, 1024, 1024]."""

    def __init__(self, network: Meissonic, tokenizer: Any, text: ClipText) -> None:
        super().__init__()
        self.network, self.tokenizer, self.text = network, tokenizer, text
        self.mask_id, self.seq_len = network.config.mask_id, network.config.seq_len
        self.side = network.config.side
        self.image_size = self.side * 2 ** (len(tokenizer.config["block_out_channels"]) - 1)
        # The public pipeline: guidance 9, multinomial draws, Gumbel from 2 to 0, cosine plan, the step as timestep.
        self.sampler = SamplerConfig(
            guidance_scale=9.0,
            confidence_temperature=2.0,
            schedule="cosine",
            rule="floor",
            timestep="step_index",
        )
        self.refine_guidance = 4.0  # constant, as in Di[M]O
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: MeissonicTeacherConfig) -> "MeissonicTeacher":
        """The public teacher. Raises CheckpointError: a file is absent, damaged or not this model."""
        require(config.required_files())
        try:
            tokenizer = vq_model(read_json(config.tokenizer_config, error=CheckpointError))
        except ValidationError as error:
            raise explain(error, str(config.tokenizer_config)) from None
        network = Meissonic(MeissonicConfig(checkpoint_activations=config.checkpoint_activations))
        teacher = cls(network, tokenizer, ClipText(VIT_H_14))
        load_public(teacher.network, config.transformer)
        load_public(teacher.tokenizer, config.tokenizer)
        load_public(teacher.text, config.text_encoder)
        teacher.captions = CaptionCache(config.caption_cache)
        return teacher

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "MeissonicTeacher":
        sizes = MeissonicArchitecture.model_validate(architecture)
        return cls(Meissonic(sizes.network), vq_model(sizes.tokenizer.model_dump()), ClipText(sizes.text))

    def architecture(self) -> dict[str, Any]:
        assert isinstance(self.network, Meissonic)
        return MeissonicArchitecture(
            network=self.network.config, tokenizer=_vq_config(self.tokenizer.config), text=self.text.config
        ).model_dump()

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        weight: Tensor = self.tokenizer.quantize.embedding.weight
        return weight

    def read(self, ids: Tensor) -> TextCondition:
        penultimate, pooled, _ = self.text(ids)
        return TextCondition(penultimate, pooled, penultimate)

    def at_timestep(self, condition: Condition, timestep: int) -> Condition:
        assert isinstance(condition, TextCondition)
        told = torch.full((len(condition),), float(timestep), device=self.device)
        return TimedCondition(condition.tokens, condition.pooled, condition.decoder, told)

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
        size = float(self.image_size)
        micro = torch.tensor([size, size, 0.0, 0.0, AESTHETIC_SCORE], device=self.device).expand(tokens.shape[0], 5)
        # Training feeds 1000 times the masked share, the public sampler its step index, Di[M]O 0; where no sampler's
        # step is known, the share is the one that the network was trained with and that a token map determines.
        share = 1000 * (tokens == self.mask_id).float().mean(dim=1)
        timestep = condition.timestep if isinstance(condition, TimedCondition) else share
        return self._run(
            network, tokens, condition.tokens, condition.pooled, micro, timestep, embedding_noise, generator
        )

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        grid = embeddings.transpose(1, 2).unflatten(2, (self.side, self.side))
        images: Tensor = self.tokenizer.decoder(self.tokenizer.post_quant_conv(grid))
        return images
