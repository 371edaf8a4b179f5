"""Training the judge of the scenes, on clean and on reconstructed pictures, on whole and on malformed objects.

A malformed object must not be found; where the damage is too small to tell, the place does not count.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import cast, save_folder
from fpd_core.config import Config, Number
from fpd_core.networks.patch_tokenizer import load_patch_tokenizer
from fpd_core.networks.scene_judge import STRIDE, JudgeMaps, SceneDetections, SceneJudge, SceneJudgeConfig
from fpd_core.scenes import Drawing, Placed, Scene
from fpd_core.scenes.draw import SPRITES
from fpd_core.scenes.layouts import CELL, SPRITE_SIZE
from fpd_core.scenes.vocabulary import COLORS, OBJECTS
from fpd_train.batch import Batch
from fpd_train.data.scenes import SceneBatch
from fpd_train.methods.interface import AS_THE_RUN_SAYS, Forward, Parts, Report
from fpd_train.pretrain.scene_damage import BROKEN, UNTOUCHED, add_object, damage

QUALITY_BATCHES = 20
SURE, FOUND = 0.5, 0.3
"""Scores above which an object counts as seen, and above which GenEval's rules take it for one."""


class SceneJudgeTraining(Config):
    """A detector of whole objects."""

    name: Literal["scene_judge"] = "scene_judge"
    judge: SceneJudgeConfig = Field(
        SceneJudgeConfig(kinds=OBJECTS, colors=COLORS), description="Classes, colours and sizes."
    )
    tokenizer: Path = Field(Path("assets/scenes/tokenizer"), description="Weight folder; half the images go through.")
    sprites: Path = Field(SPRITES, description="Folder of the sprite sheet; malformed objects are drawn from it.")
    malformed_share: Number = Field(0.4, ge=0, le=1, description="Share of objects that are malformed.")
    noise: Number = Field(0.02, ge=0, le=1, description="Standard deviation of the pixel noise.")


class SceneJudgeMethod:
    """Cross-entropy of the score maps, L1 of boxes and cross-entropy of colours at the objects."""

    product = "judge"
    settings = AS_THE_RUN_SAYS
    drafts_per_condition = 1

    def __init__(self, config: SceneJudgeTraining, parts: Parts) -> None:
        self._config, self._device = config, parts.device
        self._drawing = Drawing(config.sprites)
        self._tokenizer = load_patch_tokenizer(config.tokenizer).to(parts.device)
        self.networks: Mapping[str, nn.Module] = {"judge": SceneJudge(config.judge).to(parts.device)}
        self._shown: Tensor | None = None

    def phases(self, step: int) -> Sequence[str]:
        return ["judge"]

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        scenes, images = _scenes(batch)
        images, shown, changes = self._malform(images, scenes, generator)
        images = self._reconstruct_half(images, generator)
        images = images + self._config.noise * torch.randn(images.shape, generator=generator, device=images.device)
        self._shown = images[:30].clamp(0, 1) if self._shown is None else self._shown
        parts = _losses(JudgeMaps(*forward[phase](images)), shown, changes, self._config.judge)
        numbers = dict(zip(("kinds", "boxes", "colors"), parts, strict=True))
        loss = torch.stack(parts).sum()
        return loss, {"loss": loss.item()} | {name: value.item() for name, value in numbers.items()}

    def _malform(
        self, images: Tensor, scenes: Sequence[Scene], generator: torch.Generator
    ) -> tuple[Tensor, list[Scene], list[NDArray[np.float64]]]:
        """Damage some objects, and a further one in some scenes; per scene the change of each object's pixels."""
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        random, share = np.random.default_rng(seed), self._config.malformed_share
        shown = [add_object(random, scene) if random.random() < share else scene for scene in scenes]
        pixels = np.stack([self._drawing(scene) for scene in shown])
        changes = []
        for image, scene, drawn in zip(pixels, shown, scenes, strict=True):
            chosen = random.random(len(scene.objects)) < share
            chosen[len(drawn.objects) :] = True
            changes.append(np.zeros(len(chosen)))
            for index in np.flatnonzero(chosen).tolist():
                changes[-1][index] = damage(random, self._drawing, image, scene, index)
        return torch.from_numpy(pixels).to(images.device), shown, changes

    @torch.no_grad()
    def _reconstruct_half(self, images: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.rand(len(images), generator=generator, device=images.device) < 0.5
        rebuilt = images.clone()
        if chosen.any():
            rebuilt[chosen] = self._rebuilt(images[chosen])
        return rebuilt

    def _rebuilt(self, images: Tensor) -> Tensor:
        return self._tokenizer.decode(self._tokenizer.codebook[self._tokenizer.encode(images)]).clamp(0, 1)

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        if self._shown is None:
            raise RuntimeError("a grid needs one training step first")
        return self._shown

    @torch.no_grad()
    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        """Share of scenes whose objects are found exactly, colours included: clean, reconstructed, and the share of
        malformed objects that are still found."""
        judge = averaged["judge"]
        assert isinstance(judge, SceneJudge)
        exact: dict[str, list[float]] = {"clean_exact": [], "reconstructed_exact": []}
        fooled: list[float] = []
        generator = torch.Generator(self._device).manual_seed(0)
        for _ in range(QUALITY_BATCHES):
            scenes, images = _scenes(next(validation))
            for name, clear in (("clean_exact", images), ("reconstructed_exact", self._rebuilt(images))):
                exact[name] += [_is_exact(*pair) for pair in zip(judge.detect(clear), scenes, strict=True)]
            broken, shown, changes = self._malform(images, scenes, generator)
            for found, scene, change in zip(judge.detect(self._rebuilt(broken)), shown, changes, strict=True):
                boxes = [box for several in found.boxes.values() for box in several]
                malformed = [placed for placed, damaged in zip(scene.objects, change, strict=True) if damaged > BROKEN]
                fooled += [float(any(_hits(box, placed, FOUND) for box in boxes)) for placed in malformed]
        return {name: float(np.mean(values)) for name, values in (exact | {"malformed_found": fooled}).items()}

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        config = {"format_version": 1, "judge": self._config.judge.model_dump(mode="json")}
        save_folder(folder, config, cast(averaged["judge"].state_dict(), torch.float16), card)


def _losses(
    maps: JudgeMaps, scenes: Sequence[Scene], changes: Sequence[NDArray[np.float64]], config: SceneJudgeConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Score, box and colour losses per object."""
    wanted, counts = torch.zeros_like(maps.kinds), torch.ones_like(maps.kinds)
    whole: list[tuple[int, Placed]] = []
    for index, (scene, change) in enumerate(zip(scenes, changes, strict=True)):
        for placed, damaged in zip(scene.objects, change, strict=True):
            if damaged > BROKEN:
                continue
            kind, row, column = OBJECTS.index(placed.name), *_centre(placed)
            # The centre lies on a corner of cells: neighbours may answer as well. What is damaged a little may also be
            # another kind with most of its cells.
            kinds = slice(kind, kind + 1) if damaged <= UNTOUCHED else slice(None)
            counts[index, kinds, row - 1 : row + 2, column - 1 : column + 2] = 0
            if damaged <= UNTOUCHED:
                wanted[index, kind, row, column] = counts[index, kind, row, column] = 1
                whole.append((index, placed))
    kinds_loss = (F.binary_cross_entropy_with_logits(maps.kinds, wanted, reduction="none") * counts).sum()
    return kinds_loss / max(len(whole), 1), _box_loss(maps.boxes, whole, config), _color_loss(maps.colors, whole)


def _box_loss(maps: Tensor, whole: Sequence[tuple[int, Placed]], config: SceneJudgeConfig) -> Tensor:
    """L1 of the four sides at the centres."""
    places = [(index, *_centre(placed)) for index, placed in whole]
    if not places:
        return maps.sum() * 0
    wanted = torch.tensor([_sides(placed, *_centre(placed)) for _, placed in whole]).to(maps) / config.box_unit
    indices, rows, columns = zip(*places, strict=True)
    return (maps[list(indices), :, list(rows), list(columns)] - wanted).abs().mean()


def _color_loss(maps: Tensor, whole: Sequence[tuple[int, Placed]]) -> Tensor:
    """Cross-entropy in the four cells around the centres of tinted objects."""
    logits, wanted = [], []
    for index, placed in whole:
        if placed.color is not None:
            row, column = _centre(placed)
            cells = maps[index, :, row - 1 : row + 1, column - 1 : column + 1].flatten(1).T
            logits.append(cells)
            wanted += [COLORS.index(placed.color)] * len(cells)
    if not logits:
        return maps.sum() * 0
    return F.cross_entropy(torch.cat(logits), torch.tensor(wanted, device=maps.device))


def _centre(placed: Placed) -> tuple[int, int]:
    """Row and column of the map's cell at the centre of an object."""
    half = SPRITE_SIZE // 2
    return (placed.y * CELL + half) // STRIDE, (placed.x * CELL + half) // STRIDE


def _sides(placed: Placed, row: int, column: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = placed.box
    x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
    return (x - x0, y - y0, x1 - x, y1 - y)


def _is_exact(found: SceneDetections, scene: Scene) -> float:
    """Whether the boxes scored `SURE` are exactly the objects, with their colours."""
    seen = [(name, box) for name, boxes in found.boxes.items() for box in boxes if box[4] > SURE]
    right = len(seen) == len(scene.objects) and all(_is_seen(found, placed) for placed in scene.objects)
    return float(right)


def _is_seen(found: SceneDetections, placed: Placed) -> bool:
    boxes = [box for box in found.boxes.get(placed.name, []) if _hits(box, placed, SURE)]
    return bool(boxes) and placed.color in (None, found.classify_colors(placed.name, boxes)[0])


def _hits(box: Sequence[float], placed: Placed, score: float) -> bool:
    """A higher score and a box within half a cell of the object's."""
    return box[4] > score and bool(np.abs(np.subtract(box[:4], placed.box)).max() <= CELL / 2)


def _scenes(batch: Batch) -> tuple[tuple[Scene, ...], Tensor]:
    if not isinstance(batch, SceneBatch) or batch.images is None:
        raise ValueError("the judge learns from drawn scenes; set data.name to scenes")
    return batch.scenes, batch.images
