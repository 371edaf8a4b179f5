"""Scenes drawn on the fly: no files but the sprites; sample n is a function of (seed, n) alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from fpd_core.conditioning import PromptCondition
from fpd_core.config import Config, Flag, Weight
from fpd_core.scenes import Drawing, Placed, Scene, draw_scene
from fpd_core.scenes.captions import single_object
from fpd_core.scenes.draw import SPRITES
from fpd_core.scenes.layouts import CELL, GRID, NUM_BACKGROUNDS, SPRITE_CELLS
from fpd_core.scenes.vocabulary import COLORS, OBJECTS, TASKS, TINTED
from fpd_train.batch import Batch

CLOSEUP = 32
LOOKS = tuple((name, color) for name in OBJECTS for color in (None, *(COLORS if name in TINTED else ())))
TASK_WEIGHTS = {
    **{"single_object": 0.1, "two_object": 0.15, "counting": 0.15},
    **{"colors": 0.2, "position": 0.15, "color_attr": 0.25},
}


@dataclass(frozen=True)
class SceneBatch(Batch):
    """`scenes`: what is drawn in each image, for networks that learn from it."""

    scenes: tuple[Scene, ...] = ()

    def to(self, device: torch.device) -> "SceneBatch":
        moved = super().to(device)
        return SceneBatch(moved.condition, moved.images, self.scenes)


class Scenes(Config):
    """Random scenes of the six tasks with their captions; held-out prompts never come."""

    name: Literal["scenes"] = "scenes"
    sprites: Path = Field(SPRITES, description="Folder of the sprite sheet.")
    task_weights: dict[str, Weight] = Field(TASK_WEIGHTS, description="Share of each task; need not add up to 1.")
    has_images: Flag = Field(True, description="False draws captions and layouts only.")

    @field_validator("task_weights")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(weights) - set(TASKS))
        if unknown or not sum(weights.values()) > 0 or min(weights.values()) < 0:
            raise ValueError(f"task_weights needs weights >= 0, not all 0, of {', '.join(TASKS)}")
        return weights

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        drawing, position = Drawing(self.sprites) if self.has_images else None, start
        while True:
            first = position * batch_size * world
            scenes = tuple(self.scene(seed, first + n) for n in range(rank, batch_size * world, world))
            images = torch.from_numpy(np.stack([drawing(scene) for scene in scenes])) if drawing else None
            yield SceneBatch(PromptCondition(tuple(scene.record["prompt"] for scene in scenes)), images, scenes)
            position += 1

    def scene(self, seed: int, number: int) -> Scene:
        """Scene `number` of a seed."""
        random = np.random.default_rng([seed, number])
        tasks, weights = list(self.task_weights), np.array(list(self.task_weights.values()))
        return draw_scene(random, str(random.choice(tasks, p=weights / weights.sum())))


class SceneCloseups(Config):
    """Pictures of 32x32 pixels around one object, every look equally often: what the tokenizer learns from."""

    name: Literal["scene_closeups"] = "scene_closeups"
    has_images: ClassVar[bool] = True
    sprites: Path = Field(SPRITES, description="Folder of the sprite sheet.")

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        drawing, position = Drawing(self.sprites), start
        while True:
            first = position * batch_size * world
            numbers = range(first + rank, first + batch_size * world, world)
            images = np.stack([self._closeup(drawing, np.random.default_rng([seed, n])) for n in numbers])
            yield Batch(PromptCondition(("",) * batch_size), torch.from_numpy(images))
            position += 1

    def _closeup(self, drawing: Drawing, random: np.random.Generator) -> NDArray[np.float32]:
        name, color = LOOKS[int(random.integers(len(LOOKS)))]
        x, y = (int(place) for place in random.integers(0, GRID - SPRITE_CELLS + 1, size=2))
        scene = Scene(single_object(name), (Placed(name, color, x, y),), int(random.integers(NUM_BACKGROUNDS)))
        left, top = (self._edge(random, place) * CELL for place in (x, y))
        return drawing(scene)[:, top : top + CLOSEUP, left : left + CLOSEUP]

    def _edge(self, random: np.random.Generator, place: int) -> int:
        """First of four cells that show a sprite starting at `place` whole."""
        return int(np.clip(place - random.integers(2), 0, GRID - CLOSEUP // CELL))
