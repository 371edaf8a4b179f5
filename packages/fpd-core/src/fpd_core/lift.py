"""Φ(D(E[z])): embeddings of a token map -> image -> features on a grid of cells."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.backbones import BackboneConfig, load_backbone
from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0Config
from fpd_core.conditioning import Condition
from fpd_core.config import Config
from fpd_core.teachers.teacher import Teacher

GRID_SIDE = {"4x4": 4, "global": 1}


class LiftConfig(Config):
    """The space in which student and target are compared."""

    space: Literal["feature", "pixel"] = Field("feature", description="`pixel` compares decoded images directly.")
    backbone: BackboneConfig = Field(EfficientNetLite0Config(), description="Frozen network that sees the images.")
    grid: Literal["4x4", "global"] = Field("4x4", description="Cells per map; `global` pools each map to one vector.")

    @property
    def encoder(self) -> str:
        """The name of the network that sees the images, or `pixels`."""
        return "pixels" if self.space == "pixel" else self.backbone.name


class Lift(nn.Module):
    """Frozen and always in eval mode: the same modules serve the student (with gradient) and the target (without)."""

    def __init__(self, teacher: Teacher, config: LiftConfig) -> None:
        super().__init__()
        # Plain attribute on purpose: the teacher is not a part of this module.
        self._decode = teacher.decode
        self._side = GRID_SIDE[config.grid]
        self.backbone = load_backbone(config.backbone) if config.space == "feature" else None

    def train(self, mode: bool = True) -> "Lift":
        """Frozen networks stay in eval mode whatever a parent module does."""
        return super().train(False)

    def forward(self, embeddings: Tensor, condition: Condition) -> list[Tensor]:
        """[B, L, d] -> one [B, F, D] per tapped block, cells row-major."""
        return self.features(self.decode(embeddings, condition))

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        """[B, L, d] -> images [B, 3, H, W], about [0, 1]."""
        return self._decode(embeddings, condition)

    def features(self, images: Tensor) -> list[Tensor]:
        """Decoded images -> one [B, F, D] per tapped block."""
        if self.backbone is None:
            return [pixel_cells(images, self._side)]
        return [pooled_cells(block, self._side) for block in self.backbone(images)]


def pooled_cells(features: Tensor, side: int) -> Tensor:
    """Mean over each cell of a side x side grid: [B, D, h, w] -> [B, side², D] float32."""
    return F.adaptive_avg_pool2d(features.float(), side).flatten(2).transpose(1, 2)


def pixel_cells(images: Tensor, side: int) -> Tensor:
    """All pixels of each cell: [B, 3, H, W] -> [B, side², 3 H W / side²] float32."""
    height, width = images.shape[-2] // side, images.shape[-1] // side
    return F.unfold(images.float(), (height, width), stride=(height, width)).transpose(1, 2)
