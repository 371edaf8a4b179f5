"""Frozen feature backbones: images [B, 3, H, W] in [0, 1] -> one map [B, C, h, w] per block.

A new one is one file with a config section and a line in `BACKBONES`, or a package with an entry point; the section has
`blocks` and `required_files()`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from torch import nn

from fpd_core.backbones.dinov3 import Dinov3, Dinov3Config
from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0, EfficientNetLite0Config
from fpd_core.config import Config
from fpd_core.plugins import Registry
from fpd_core.sections import Sections, section_pair

_OWN: dict[str, tuple[type[Config], Callable[[Any], nn.Module]] | str] = {
    "efficientnet_lite0": (EfficientNetLite0Config, EfficientNetLite0.load),
    "dinov3": (Dinov3Config, Dinov3.load),
}
BACKBONES = Registry("fpd.backbones", "backbone", _OWN, section_pair(Config))

if TYPE_CHECKING:
    BackboneConfig = EfficientNetLite0Config | Dinov3Config
else:
    # A section that only changes `blocks` keeps the default backbone.
    BackboneConfig = Annotated[Config, Sections(BACKBONES, default="efficientnet_lite0")]


def load_backbone(config: BackboneConfig) -> nn.Module:
    """A frozen backbone in eval mode. Raises CheckpointError: its weights are absent or do not fit."""
    return BACKBONES[config.name][1](config)
