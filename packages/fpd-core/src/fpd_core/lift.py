"""Φ(D(E[z])): embeddings of a token map -> image -> features on a grid of cells."""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.backbones import BackboneConfig, load_backbone
from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0Config
from fpd_core.conditioning import Condition
from fpd_core.config import Config
from fpd_core.teachers.teacher import Teacher
from fpd_core.weights import RequiredFile

GRID_SIDE = {"4x4": 4, "global": 1}


class SpaceConfig(Config):
    """Where images are compared."""

    space: Literal["feature", "pixel"] = Field("feature", description="`pixel` compares decoded images directly.")
    backbone: BackboneConfig = Field(EfficientNetLite0Config(), description="Frozen network that sees the images.")
    grid: Literal["4x4", "global"] = Field("4x4", description="Cells per map; `global` pools each map to one vector.")

    @property
    def label(self) -> str:
        """The name of the network that sees the images, or `pixels`."""
        return "pixels" if self.space == "pixel" else self.backbone.name

    @property
    def maps(self) -> list[str]:
        """What its drift problems are called in logs."""
        return ["pixels"] if self.space == "pixel" else [f"block{index}" for index in sorted(self.backbone.blocks)]

    def required_files(self) -> list[RequiredFile]:
        """Published files that the space opens."""
        return [] if self.space == "pixel" else self.backbone.required_files()


class LiftConfig(SpaceConfig):
    """The space in which student and target are compared, or several."""

    more: tuple[SpaceConfig, ...] = Field(
        (), max_length=7, description="Further spaces. Each map of each is a drift problem with a scale of its own."
    )

    @model_validator(mode="after")
    def _spaces_differ(self) -> Self:
        labels = [space.label for space in self.spaces]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"Input should name each space once, {label} stands twice; widen its blocks instead")
        return self

    @property
    def spaces(self) -> list[SpaceConfig]:
        """All of them, this section's own first."""
        return [self, *self.more]


class Space(nn.Module):
    """Images -> features on a grid of cells."""

    def __init__(self, config: SpaceConfig) -> None:
        super().__init__()
        self._side = GRID_SIDE[config.grid]
        self.backbone = load_backbone(config.backbone) if config.space == "feature" else None

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W], about [0, 1] -> one [B, F, D] per tapped block, cells row-major."""
        if self.backbone is None:
            return [pixel_cells(images, self._side)]
        return [pooled_cells(block, self._side) for block in self.backbone(images)]


class Lift(nn.Module):
    """Frozen and always in eval mode: the same modules serve the student (with gradient) and the target (without)."""

    def __init__(self, teacher: Teacher, config: LiftConfig) -> None:
        super().__init__()
        # Plain attribute on purpose: the teacher is not a part of this module.
        self._decode = teacher.decode
        self.spaces = nn.ModuleDict({space.label: Space(space) for space in config.spaces})

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
        """Decoded images -> one [B, F, D] per tapped block, space after space."""
        return [block for space in self.spaces.values() for block in space(images)]


def pooled_cells(features: Tensor, side: int) -> Tensor:
    """Mean over each cell of a side x side grid: [B, D, h, w] -> [B, side², D] float32."""
    return F.adaptive_avg_pool2d(features.float(), side).flatten(2).transpose(1, 2)


def pixel_cells(images: Tensor, side: int) -> Tensor:
    """All pixels of each cell: [B, 3, H, W] -> [B, side², 3 H W / side²] float32."""
    height, width = images.shape[-2] // side, images.shape[-1] // side
    return F.unfold(images.float(), (height, width), stride=(height, width)).transpose(1, 2)
