"""Frozen feature backbones: images [B, 3, H, W] in [0, 1] -> one map [B, C, h, w] per block."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import nn

from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0
from fpd_core.config import Config

BACKBONES: dict[str, Callable[..., nn.Module]] = {"efficientnet_lite0": EfficientNetLite0}


class BackboneConfig(Config):
    """Which features the drift is measured in."""

    name: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    blocks: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="Depths to tap, shallow to deep.")
    image_size: int = Field(64, gt=0, description="Images are resized to this side first.")


def load_backbone(config: BackboneConfig) -> nn.Module:
    """A frozen backbone in eval mode. Raises CheckpointError: its weights are absent or do not fit."""
    return BACKBONES[config.name](blocks=config.blocks, image_size=config.image_size)
