"""Training the judge of the scenes, on clean and on reconstructed pictures, on whole and on malformed objects.

A malformed object mixes cells of two kinds, lacks cells or has them shuffled. It must not be found; where the damage is
too small to tell, the place does not count.
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
from fpd_core.scenes import Placed, Scene
from fpd_core.scenes.layouts import CELL, SPRITE_CELLS, SPRITE_SIZE
from fpd_core.scenes.vocabulary import COLORS, OBJECTS
from fpd_train.batch import Batch
from fpd_train.data.scenes import SceneBatch
from fpd_train.methods.interface import AS_THE_RUN_SAYS, Forward, Parts, Report

QUALITY_BATCHES = 20
BROKEN, UNTOUCHED = 0.06, 0.01
"""Mean change of a sprite's pixels above which it is malformed, and below which it is still whole."""


class SceneJudgeTraining(Config):
    """A detector of whole objects."""

    name: Literal["scene_judge"] = "scene_judge"
    judge: SceneJudgeConfig = SceneJudgeConfig(kinds=OBJECTS, colors=COLORS)
    tokenizer: Path = Field(Path("assets/scenes/tokenizer"), description="Weight folder; half the images go through.")
    malformed_share: Number = Field(0.4, ge=0, le=1, description="Share of scenes in which one object is malformed.")
    noise: Number = Field(0.02, ge=0, le=1, description="Standard deviation of the pixel noise.")


class SceneJudgeMethod:
    """Cross-entropy of the score maps, L1 of boxes and cross-entropy of colours at the objects."""

    product = "judge"
    settings = AS_THE_RUN_SAYS
    drafts_per_condition = 1

    def __init__(self, config: SceneJudgeTraining, parts: Parts) -> None:
        self._config, self._device = config, parts.device
        self._tokenizer = load_patch_tokenizer(config.tokenizer).to(parts.device)
        self.networks: Mapping[str, nn.Module] = {"judge": SceneJudge(config.judge).to(parts.device)}
        self._shown: Tensor | None = None

    def phases(self, step: int) -> Sequence[str]:
        return ["judge"]

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        scenes, images = _scenes(batch)
        images, health = self._malform(images, scenes, generator)
        images = self._reconstruct_half(images, generator)
        images = images + self._config.noise * torch.randn(images.shape, generator=generator, device=images.device)
        self._shown = images[:30].clamp(0, 1) if self._shown is None else self._shown
        parts = _losses(JudgeMaps(*forward[phase](images)), scenes, health, self._config.judge)
        numbers = dict(zip(("kinds", "boxes", "colors"), parts, strict=True))
        loss = torch.stack(parts).sum()
        return loss, {"loss": loss.item()} | {name: value.item() for name, value in numbers.items()}

    def _malform(
        self, images: Tensor, scenes: Sequence[Scene], generator: torch.Generator
    ) -> tuple[Tensor, list[NDArray[np.float64]]]:
        """Damage the first object of some scenes; per scene the change of each object's pixels."""
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        random = np.random.default_rng(seed)
        pixels = images.numpy(force=True).copy()
        changes = [np.zeros(len(scene.objects)) for scene in scenes]
        for index, scene in enumerate(scenes):
            if random.random() < self._config.malformed_share:
                other = int(random.integers(len(scenes)))
                donor = images[other].numpy(force=True), scenes[other].objects[0]
                changes[index][0] = damage(random, pixels[index], scene.objects[0], *donor)
        return torch.from_numpy(pixels).to(images.device), changes

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
            for name, shown in (("clean_exact", images), ("reconstructed_exact", self._rebuilt(images))):
                exact[name] += [_is_exact(*pair) for pair in zip(judge.detect(shown), scenes, strict=True)]
            broken, changes = self._malform(images, scenes, generator)
            for found, scene, change in zip(judge.detect(self._rebuilt(broken)), scenes, changes, strict=True):
                if change[0] > BROKEN:
                    boxes = [box for several in found.boxes.values() for box in several]
                    fooled.append(float(any(_hits(box, scene.objects[0]) for box in boxes)))
        return {name: float(np.mean(values)) for name, values in (exact | {"malformed_found": fooled}).items()}

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        config = {"format_version": 1, "judge": self._config.judge.model_dump(mode="json")}
        save_folder(folder, config, cast(averaged["judge"].state_dict(), torch.float16), card)


def damage(
    random: np.random.Generator, image: NDArray[np.float32], placed: Placed, other: NDArray[np.float32], donor: Placed
) -> float:
    """Damage an object in place, cell by cell: another kind's cells, bare background, or its own cells shuffled.

    Returns:
        Mean absolute change of its pixels.
    """
    sprite, foreign = _cells(image, placed), _cells(other, donor)
    before = sprite.copy()
    chosen = random.permutation(SPRITE_CELLS**2)[: int(random.integers(3, 7))]
    rows, columns = np.divmod(chosen, SPRITE_CELLS)
    kind = random.random()
    if kind < 0.6 and donor.name != placed.name:
        sprite[:, rows, :, columns] = foreign[:, rows, :, columns]
    elif kind < 0.8:
        sprite[:, rows, :, columns] = image[:, :1, :1].mean((1, 2))[None, :, None, None]
    else:
        moved = np.roll(np.arange(len(chosen)), 1)
        sprite[:, rows, :, columns] = before[:, rows[moved], :, columns[moved]]
    return float(np.abs(sprite - before).mean())


def _cells(image: NDArray[np.float32], placed: Placed) -> NDArray[np.float32]:
    """A view [3, 3, 8, 3, 8] (channel, cell row, row, cell column, column) of an object's pixels."""
    x0, y0, x1, y1 = placed.box
    view = image[:, y0:y1, x0:x1]
    channels, rows, columns = view.strides
    return np.lib.stride_tricks.as_strided(
        view, (3, SPRITE_CELLS, CELL, SPRITE_CELLS, CELL), (channels, rows * CELL, rows, columns * CELL, columns)
    )


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
            # The centre lies on a corner of cells: neighbours may answer as well.
            counts[index, kind, row - 1 : row + 2, column - 1 : column + 2] = 0
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
    """Whether the boxes above 0.5 are exactly the objects, with their colours."""
    seen = [(name, box) for name, boxes in found.boxes.items() for box in boxes if box[4] > 0.5]
    right = len(seen) == len(scene.objects) and all(_is_seen(found, placed) for placed in scene.objects)
    return float(right)


def _is_seen(found: SceneDetections, placed: Placed) -> bool:
    boxes = [box for box in found.boxes.get(placed.name, []) if _hits(box, placed)]
    return bool(boxes) and placed.color in (None, found.classify_colors(placed.name, boxes)[0])


def _hits(box: Sequence[float], placed: Placed) -> bool:
    """A score above 0.5 and a box within half a cell of the object's."""
    return box[4] > 0.5 and bool(np.abs(np.subtract(box[:4], placed.box)).max() <= CELL / 2)


def _scenes(batch: Batch) -> tuple[tuple[Scene, ...], Tensor]:
    if not isinstance(batch, SceneBatch) or batch.images is None:
        raise ValueError("the judge learns from drawn scenes; set data.name to scenes")
    return batch.scenes, batch.images
