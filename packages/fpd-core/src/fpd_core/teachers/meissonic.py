"""Meissonic, text to image at 1024 px: 64x64 codes of a diffusers VQModel, captions read by OpenCLIP ViT-H/14."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.checkpoints import CheckpointError
from fpd_core.conditioning import Condition, TextCondition
from fpd_core.config import ConfigError, Flag, Location
from fpd_core.containers import load_public
from fpd_core.networks.clip_text import END_TOKEN, ClipText, ClipTextConfig
from fpd_core.networks.meissonic import Meissonic, MeissonicConfig
from fpd_core.teachers.teacher import SamplerConfig, TeacherConfig
from fpd_core.teachers.text_conditional import TextConditionalTeacher
from fpd_core.weights import RequiredFile, require, weight_file

TRANSFORMER, TOKENIZER, TOKENIZER_CONFIG, TEXT = (
    weight_file("meissonic", role) for role in ("transformer", "tokenizer", "tokenizer_config", "text_encoder")
)
VIT_H_14 = ClipTextConfig(width=1024, depth=24, num_heads=16, projection_width=1024, quick_gelu=False, pad_id=END_TOKEN)
AESTHETIC_SCORE = 6.0


class MeissonicTeacherConfig(TeacherConfig):
    """The public files; `fpd-train weights pull meissonic` fetches them."""

    name: Literal["meissonic"] = "meissonic"
    transformer: Location = Field(TRANSFORMER.local, description="transformer/diffusion_pytorch_model.safetensors")
    tokenizer: Location = Field(TOKENIZER.local, description="vqvae/diffusion_pytorch_model.safetensors")
    tokenizer_config: Location = Field(TOKENIZER_CONFIG.local, description="vqvae/config.json")
    text_encoder: Location = Field(TEXT.local, description="text_encoder/model.safetensors")
    checkpoint_activations: Flag = Field(False, description="Recompute the student's blocks in backward.")

    def required_files(self) -> list[RequiredFile]:
        """Published files this teacher needs."""
        return [
            RequiredFile(self.transformer, TRANSFORMER),
            RequiredFile(self.tokenizer, TOKENIZER),
            RequiredFile(self.tokenizer_config, TOKENIZER_CONFIG),
            RequiredFile(self.text_encoder, TEXT),
        ]


def vq_model(config: Mapping[str, Any]) -> Any:
    """diffusers' VQModel of a `vqvae/config.json`; its annotations hide that it is a module.

    Raises:
        ConfigError: diffusers is not installed.
    """
    try:
        from diffusers import VQModel
    except ModuleNotFoundError:
        raise ConfigError("Meissonic's tokenizer needs diffusers: pip install 'fpd-core[meissonic]'") from None
    build: Callable[..., Any] = VQModel
    return build(**{k: v for k, v in config.items() if not k.startswith("_")})


class MeissonicTeacher(TextConditionalTeacher):
    """4096 tokens of 8192 codes, images [B, 3, 1024, 1024]."""

    def __init__(self, network: Meissonic, tokenizer: Any, text: ClipText) -> None:
        super().__init__()
        self.network, self.tokenizer, self.text = network, tokenizer, text
        self.mask_id, self.seq_len = network.config.mask_id, network.config.seq_len
        self.side = network.config.side
        self.image_size = self.side * 2 ** (len(tokenizer.config["block_out_channels"]) - 1)
        # The public pipeline: guidance 9, multinomial draws, Gumbel from 2 to 0, cosine plan.
        self.sampler = SamplerConfig(guidance_scale=9.0, confidence_temperature=2.0, schedule="cosine", rule="floor")
        self.refine_guidance = 4.0  # constant, as in Di[M]O
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: MeissonicTeacherConfig) -> "MeissonicTeacher":
        """The public teacher. Raises CheckpointError: a file is absent, damaged or not this model."""
        require(config.required_files())
        try:
            tokenizer_config = json.loads(config.tokenizer_config.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{config.tokenizer_config} is not valid JSON: {error}") from None
        network = Meissonic(MeissonicConfig(checkpoint_activations=config.checkpoint_activations))
        teacher = cls(network, vq_model(tokenizer_config), ClipText(VIT_H_14))
        load_public(teacher.network, config.transformer)
        load_public(teacher.tokenizer, config.tokenizer)
        load_public(teacher.text, config.text_encoder)
        return teacher

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> "MeissonicTeacher":
        return cls(
            Meissonic(MeissonicConfig.model_validate(architecture["network"])),
            vq_model(architecture["tokenizer"]),
            ClipText(ClipTextConfig.model_validate(architecture["text"])),
        )

    def architecture(self) -> dict[str, Any]:
        assert isinstance(self.network, Meissonic)
        return {
            "name": "meissonic",
            "network": self.network.config.model_dump(),
            "tokenizer": {k: v for k, v in self.tokenizer.config.items() if not k.startswith("_")},
            "text": self.text.config.model_dump(),
        }

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        weight: Tensor = self.tokenizer.quantize.embedding.weight
        return weight

    def encode(self, prompts: Sequence[str]) -> TextCondition:
        penultimate, pooled, _ = self._features(prompts)
        return TextCondition(penultimate, pooled, penultimate)

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
        micro = torch.tensor([size, size, 0.0, 0.0, AESTHETIC_SCORE], device=self.device).expand(len(tokens), 5)
        # Training feeds 1000 times the masked share, the public sampler its step index, Di[M]O 0; the share is the one
        # of the three that the network was trained with and that a token map determines.
        timestep = 1000 * (tokens == self.mask_id).float().mean(dim=1)
        return self._run(
            network, tokens, condition.tokens, condition.pooled, micro, timestep, embedding_noise, generator
        )

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        grid = embeddings.transpose(1, 2).unflatten(2, (self.side, self.side))
        images: Tensor = self.tokenizer.decoder(self.tokenizer.post_quant_conv(grid))
        return images
