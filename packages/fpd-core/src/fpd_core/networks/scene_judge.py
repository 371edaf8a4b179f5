"""The judge of the scenes: finds objects by kind with box and score, and names their colours.

A convolutional detector with one score map per kind at a quarter of the resolution. It answers in the form that
GenEval's rules read: boxes by class name, and a function that names colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import load_network
from fpd_core.config import Config, Depth, Number, Size
from fpd_core.networks.patch_tokenizer import ChannelNorm, ResBlock

STRIDE = 4
LEAST_SCORE = 0.05
Box = tuple[float, float, float, float, float]


class SceneJudgeConfig(Config):
    """Sizes and names."""

    kinds: tuple[str, ...] = Field(description="Objects, in the order of the score maps.")
    colors: tuple[str, ...] = Field(description="Colours, in the order of the colour map.")
    width: Size = Field(48, description="Channels.")
    depth: Depth = Field(4, description="Residual blocks.")
    box_unit: Number = Field(24.0, gt=0, le=1e4, description="Pixels in which box sides are predicted.")


class JudgeMaps(NamedTuple):
    """Logits of kinds [B, N, h, w] and of colours [B, C, h, w], and box sides [B, 4, h, w] as left, top, right,
    bottom distances from the centre of a cell in units of `box_unit`."""

    kinds: Tensor
    boxes: Tensor
    colors: Tensor


@dataclass(frozen=True)
class SceneDetections:
    """What was found in one image.

    Attributes:
        boxes: (x0, y0, x1, y1, score) by kind, in pixels, best first; kinds without any are absent.
        color_map: logits [C, h, w].
        color_names: what the channels mean.
    """

    boxes: dict[str, list[Box]]
    color_map: Tensor
    color_names: tuple[str, ...]

    def classify_colors(self, name: str, boxes: Sequence[Box]) -> list[str]:
        """The likeliest colour in the 2x2 cells around the centre of each box; there is no "unknown"."""
        _, height, width = self.color_map.shape
        corners = [(_corner((box[1] + box[3]) / 2, height), _corner((box[0] + box[2]) / 2, width)) for box in boxes]
        sums = [self.color_map[:, y - 1 : y + 1, x - 1 : x + 1].sum((1, 2)) for y, x in corners]
        return [self.color_names[int(logits.argmax())] for logits in sums]


class SceneJudge(nn.Module):
    """Images [B, 3, H, W] in [0, 1], sides multiples of 4 -> `JudgeMaps` with h = H / 4."""

    def __init__(self, config: SceneJudgeConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.body = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            *(ResBlock(width) for _ in range(config.depth)),
            ChannelNorm(width),
            nn.SiLU(),
        )
        self.kinds = nn.Conv2d(width, len(config.kinds), 1)
        self.boxes = nn.Conv2d(width, 4, 1)
        self.colors = nn.Conv2d(width, len(config.colors), 1)
        # Objects are rare: start from a score near 0.002.
        assert self.kinds.bias is not None
        nn.init.constant_(self.kinds.bias, -6.0)

    def forward(self, images: Tensor) -> JudgeMaps:
        features = self.body(images * 2 - 1)
        return JudgeMaps(self.kinds(features), self.boxes(features), self.colors(features))

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[SceneDetections]:
        """[B, 3, H, W] in [0, 1] -> what each image shows: peaks of the score maps."""
        maps = self(images)
        scores = maps.kinds.float().sigmoid()
        peaks = (scores == F.max_pool2d(scores, 5, stride=1, padding=2)) & (scores > LEAST_SCORE)
        colors = maps.colors.float().cpu()
        found: list[dict[str, list[Box]]] = [{} for _ in images]
        order = scores[peaks].argsort(descending=True)
        for image, kind, row, column in peaks.nonzero()[order].tolist():
            box = self._box(maps.boxes[image, :, row, column].tolist(), row, column)
            score = float(scores[image, kind, row, column])
            found[image].setdefault(self.config.kinds[kind], []).append((*box, score))
        return [SceneDetections(boxes, colors[i], self.config.colors) for i, boxes in enumerate(found)]

    def _box(self, sides: list[float], row: int, column: int) -> tuple[float, float, float, float]:
        x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
        left, top, right, bottom = (side * self.config.box_unit for side in sides)
        return (x - left, y - top, x + right, y + bottom)


def load_scene_judge(folder: str | Path) -> SceneJudge:
    """A trained judge, frozen and in eval mode.

    Raises:
        CheckpointError: the folder is absent, damaged or holds another network.
    """
    judge = load_network(Path(folder), "judge", lambda sizes: SceneJudge(SceneJudgeConfig.model_validate(sizes)))
    return judge.eval().requires_grad_(False)


def _corner(place: float, cells: int) -> int:
    """The cell corner nearest to a pixel, not at the border."""
    return min(max(round(place / STRIDE), 1), cells - 1)
