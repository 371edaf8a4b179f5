"""Frozen feature backbones: images [B, 3, H, W] in [0, 1] -> one map [B, C, h, w] per block.

A new one is one file with a config section, a line in `BACKBONES` and its name in the union.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Tag
from torch import nn

from fpd_core.backbones.dinov3 import Dinov3, Dinov3Config
from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0, EfficientNetLite0Config


def _name(value: Any) -> str | None:
    """A section that only changes `blocks` keeps the default backbone."""
    if isinstance(value, dict):
        return str(value.get("name", "efficientnet_lite0"))
    return value.name if isinstance(value, EfficientNetLite0Config | Dinov3Config) else None


BackboneConfig = Annotated[
    Annotated[EfficientNetLite0Config, Tag("efficientnet_lite0")] | Annotated[Dinov3Config, Tag("dinov3")],
    Discriminator(_name),
]

BACKBONES: dict[type, Callable[[Any], nn.Module]] = {
    EfficientNetLite0Config: EfficientNetLite0.load,
    Dinov3Config: Dinov3.load,
}


def load_backbone(config: BackboneConfig) -> nn.Module:
    """A frozen backbone in eval mode. Raises CheckpointError: its weights are absent or do not fit."""
    return BACKBONES[type(config)](config)
