"""DINOv3 ViT-B/16, the backbone of the paper: blocks 2, 5, 8, 11, counted from 0, each through the final LayerNorm."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from fpd_core.checkpoints import CheckpointError
from fpd_core.config import Config, Flag, Location, Whole, check_unique
from fpd_core.containers import load_state, read_public
from fpd_core.networks.synthetic import fill_synthetic
from fpd_core.weights import RequiredFile, require, weight_file

if TYPE_CHECKING:
    from timm.models.eva import Eva

WEIGHTS = weight_file("dinov3", "backbone")
PATCH = 16
# Mean and standard deviation of ImageNet, which the LVD-1689M weights expect; the satellite weights use others.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Dinov3Config(Config):
    """Features of the public weights; `fpd-train weights pull dinov3` fetches them."""

    name: Literal["dinov3"] = "dinov3"
    blocks: Annotated[tuple[Annotated[Whole, Field(ge=0, le=11)], ...], AfterValidator(check_unique)] = Field(
        (2, 5, 8, 11), min_length=1, max_length=12, description="Blocks to tap, counted from 0."
    )
    path: Location = Field(WEIGHTS.local, description="Weight file in timm's or transformers' naming.")
    weights: Literal["public", "synthetic"] = Field(
        "public", description="`synthetic` fills the network by formula, to prove and profile the path."
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of weights and activations.")
    rope_periods: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Rounding of the rotary periods: as in Meta's checkpoints, or timm's and transformers'."
    )
    activation_checkpointing: Flag = Field(False, description="Recompute blocks in backward: less memory, more time.")

    def required_files(self) -> list[RequiredFile]:
        """Published files this backbone needs."""
        return [] if self.weights == "synthetic" else [RequiredFile(self.path, WEIGHTS)]


class Dinov3(nn.Module):
    """Frozen feature maps of images, with gradient to the images.

    Args:
        config: `path` and `weights` are not looked at; the weights are timm's random initialisation until loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Dinov3Config) -> None:
        import timm  # for seconds, here and below: configs name this backbone without opening it
        from timm.models.eva import Eva

        super().__init__()
        self.blocks, self.dtype = sorted(config.blocks), DTYPES[config.dtype]
        network = timm.create_model("vit_base_patch16_dinov3", pretrained=False).to(self.dtype)
        assert isinstance(network, Eva)
        if config.rope_periods == "bfloat16":
            round_periods(network)
        network.set_grad_checkpointing(config.activation_checkpointing)
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: Dinov3Config) -> "Dinov3":
        """With the weights the config asks for. Raises CheckpointError: the file is absent or does not fit."""
        require(config.required_files())
        backbone = cls(config)
        if config.weights == "synthetic":
            fill_synthetic(backbone.network)
        else:
            load_dinov3(backbone.network, config.path)
        return backbone

    def train(self, mode: bool = True) -> "Dinov3":
        """Stays in eval mode whatever a parent module does."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised patch features.

        Args:
            images: [B, 3, H, W] in [0, 1], sides divisible by 16, used at their own size; the paper's are 256 x 256.

        Returns:
            One [B, 768, H/16, W/16] map per block in `dtype`, shallow to deep, without class and register tokens.

        Raises:
            ValueError: a side is not divisible by 16.
        """
        if images.shape[-2] % PATCH or images.shape[-1] % PATCH:
            raise ValueError(f"DINOv3 needs sides divisible by {PATCH}, got images of {tuple(images.shape[-2:])}")
        normalized = ((images.float() - self.mean) / self.std).to(self.dtype)
        # Raw residual streams carry a few huge channels that would rule every distance: norm=True.
        maps = self.network.forward_intermediates(
            normalized, indices=self.blocks, norm=True, intermediates_only=True, stop_early=True
        )
        assert isinstance(maps, list)
        return maps


def round_periods(network: "Eva") -> None:
    """Round the rotary periods to bfloat16.

    Meta's checkpoints hold them as bfloat16 buffers. timm and transformers compute them anew in float32, and their
    files hold none.
    """
    from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3

    rope = network.rope
    assert isinstance(rope, RotaryEmbeddingDinoV3)
    periods = rope.get_buffer("periods")
    periods.copy_(periods.bfloat16())


def load_dinov3(network: nn.Module, path: Path) -> None:
    """Load a weight file in timm's or transformers' naming into timm's network.

    Raises:
        CheckpointError: absent, damaged or another network's.
    """
    state = read_public(path)
    if "embeddings.register_tokens" in state:
        state = from_transformers(state, path)
    load_state(network, state, path)


_RENAMED = (
    ("embeddings.patch_embeddings.", "patch_embed.proj."),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.cls_token", "cls_token"),
    ("model.layer.", "blocks."),  # as saved by transformers 5
    ("layer.", "blocks."),
    ("attention.o_proj.", "attn.proj."),
    ("layer_scale1.lambda1", "gamma_1"),
    ("layer_scale2.lambda1", "gamma_2"),
    ("mlp.up_proj.", "mlp.fc1."),
    ("mlp.down_proj.", "mlp.fc2."),
)
_QKV = tuple(f"attention.{part}_proj.weight" for part in "qkv")


def from_transformers(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename a `DINOv3ViTModel` state dict to timm's keys; q, k and v become one matrix.

    Raises:
        CheckpointError: the biases of q, k or v are not zero, as in all published weights; timm's network has none.
    """
    renamed = {}
    for key, value in state.items():
        if key == "embeddings.mask_token" or key.endswith(_QKV[1:]):
            continue  # used in pre-training only; joined with q below
        if key.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")):
            if value.any():
                raise CheckpointError(f"{path}: {key} is not zero, which timm's vit_base_patch16_dinov3 cannot hold")
            continue
        if key.endswith(_QKV[0]):
            block = key.removesuffix(_QKV[0])
            key, value = f"{block}attn.qkv.weight", torch.cat([state[block + part] for part in _QKV])
        for old, new in _RENAMED:
            key = key.replace(old, new)
        renamed[key] = value
    return renamed
