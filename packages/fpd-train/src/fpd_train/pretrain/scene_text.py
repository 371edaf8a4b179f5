"""Training the text tower of the scenes before any image is seen: which object stands where, from the caption alone.

Two small heads that are thrown away afterwards read its states. At the noun of an object: column, row and colour. At an
image cell: the kind, the colour and the part of the sprite that covers it. The caption leaves open where exactly, so
the best possible loss is the entropy of the layouts.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import cast, save_folder
from fpd_core.config import Config, Share, Weight
from fpd_core.networks.scene_text import SceneText, SceneTextConfig, load_scene_text
from fpd_core.scenes import Scene
from fpd_core.scenes.layouts import GRID, SPRITE_CELLS
from fpd_core.scenes.vocabulary import COLORS, OBJECTS, words
from fpd_train.batch import Batch
from fpd_train.data.scenes import SceneBatch
from fpd_train.methods.interface import AS_THE_RUN_SAYS, Forward, Parts, Report

PLACES = GRID - SPRITE_CELLS + 1
NOUN_SIZES = (PLACES, PLACES, 1 + len(COLORS))
CELL_SIZES = (1 + len(OBJECTS), 2 + len(COLORS), 1 + SPRITE_CELLS**2)
NO_NOUN = -1
QUALITY_BATCHES = 16
EXCHANGED = {"left": "right", "right": "left", "above": "below", "below": "above"}


class SceneTextTraining(Config):
    """Layouts from captions."""

    name: Literal["scene_text"] = "scene_text"
    text: SceneTextConfig = Field(SceneTextConfig(words=words()), description="Words and sizes of the text tower.")
    start: Path | None = Field(None, description="A trained tower to learn on from; the heads start anew.")
    caption_dropout: Share = Field(0.1, description="Share of captions replaced by the empty one.")
    noun_weight: Weight = Field(1.0, description="Weight of the loss at nouns; without it relations stay unread.")


class _Tower(nn.Module):
    """Tower and heads: word numbers -> (noun logits [B, T, ...], cell logits [B, L, ...])."""

    def __init__(self, config: SceneTextConfig) -> None:
        super().__init__()
        self.text = SceneText(config)
        self.noun_head = nn.Linear(config.width, sum(NOUN_SIZES))
        self.cell_head = nn.Linear(config.width, sum(CELL_SIZES))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        features = self.text(tokens)
        return self.noun_head(features.words), self.cell_head(features.cells)


class SceneTextMethod:
    """Cross-entropy of the layout at nouns and cells."""

    product = "text"
    settings = AS_THE_RUN_SAYS
    drafts_per_condition = 1

    def __init__(self, config: SceneTextTraining, parts: Parts) -> None:
        self._config, self._device = config, parts.device
        tower = _Tower(config.text)
        if config.start is not None:
            tower.text.load_state_dict(load_scene_text(config.start).state_dict())
        self._network = tower.to(parts.device)
        self.networks: Mapping[str, nn.Module] = {"text": self._network}

    def phases(self, step: int) -> Sequence[str]:
        return ["text"]

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        scenes = _scenes(batch)
        dropped = torch.rand(len(scenes), generator=generator, device=self._device) < self._config.caption_dropout
        captions = ["" if out else scene.record["prompt"] for scene, out in zip(scenes, dropped.tolist(), strict=True)]
        noun_loss, cell_loss = self._losses(forward[phase], captions, scenes)
        loss = self._config.noun_weight * noun_loss + cell_loss
        return loss, {"loss": loss.item(), "noun_loss": noun_loss.item(), "cell_loss": cell_loss.item()}

    def _losses(self, network: Forward, captions: Sequence[str], scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Sums over what is asked of the means over nouns and over cells."""
        tokens = self._network.text.tokenize(captions).to(self._device)
        nouns, cells = network(tokens)
        # A dropped caption has no nouns.
        pieces = map(self._network.text.pieces, captions)
        at_nouns = np.stack([noun_targets(s, p, tokens.shape[1]) for s, p in zip(scenes, pieces, strict=True)])
        at_cells = np.stack([cell_targets(scene) for scene in scenes])
        return (
            _cross_entropy(nouns, at_nouns, NOUN_SIZES),
            _cross_entropy(cells, at_cells.reshape(len(scenes), len(CELL_SIZES), -1), CELL_SIZES),
        )

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        """Where the tower expects any object, for one caption per relation."""
        relations = ("left of", "right of", "above", "below")
        captions = [f"a photo of a dog {relation} a cup" for relation in relations]
        with torch.no_grad():
            _, cells = averaged["text"](self._network.text.tokenize(captions).to(self._device))
        kinds = cells.split(CELL_SIZES, dim=-1)[0].softmax(-1)
        shown = [kinds[..., 1 + OBJECTS.index(name)].view(-1, GRID, GRID) for name in ("dog", "cup", "cup")]
        return torch.stack(shown, dim=1).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)

    @torch.no_grad()
    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        """`relation_gap`: what exchanging the relation word adds to the loss of the cells."""
        numbers = []
        for _ in range(QUALITY_BATCHES):
            scenes = _scenes(next(validation))
            captions = [scene.record["prompt"] for scene in scenes]
            noun, cell = self._losses(averaged["text"], captions, scenes)
            placed = [scene for scene in scenes if scene.record["tag"] == "position"]
            prompts = [scene.record["prompt"] for scene in placed]
            right = self._losses(averaged["text"], prompts, placed)[1]
            wrong = self._losses(averaged["text"], list(map(exchange_relation, prompts)), placed)[1]
            numbers.append(torch.stack([noun, cell, wrong - right]))
        names = ("noun_loss", "cell_loss", "relation_gap")
        return dict(zip(names, torch.stack(numbers).mean(0).tolist(), strict=True))

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        tower = averaged["text"]
        assert isinstance(tower, _Tower)
        config = {"format_version": 1, "text": self._config.text.model_dump()}
        save_folder(folder, config, cast(tower.text.state_dict(), torch.float16), card)


def exchange_relation(caption: str) -> str:
    """left <-> right and above <-> below."""
    return " ".join(EXCHANGED.get(word, word) for word in caption.split())


def noun_targets(scene: Scene, pieces: Sequence[str], length: int) -> np.ndarray:
    """[3, T] int64: column, row and colour (0 natural) at the noun of each object, `NO_NOUN` elsewhere.

    `pieces` are the tokens of its caption.

    Of several objects of a kind the last one counts.
    """
    targets = np.full((len(NOUN_SIZES), length), NO_NOUN)
    for placed in scene.objects:
        noun = placed.name.split()[-1]
        at = [place for place, piece in enumerate(pieces) if piece == noun]
        targets[:, at] = [[placed.x], [placed.y], [_color_number(placed.color)]]
    return targets


def cell_targets(scene: Scene) -> np.ndarray:
    """[3, 8, 8] int64: kind, colour and part of the sprite; 0 is the background."""
    targets = np.zeros((len(CELL_SIZES), GRID, GRID), dtype=np.int64)
    for placed in scene.objects:
        cells = targets[:, placed.y : placed.y + SPRITE_CELLS, placed.x : placed.x + SPRITE_CELLS]
        cells[0], cells[1] = 1 + OBJECTS.index(placed.name), 1 + _color_number(placed.color)
        cells[2] = 1 + np.arange(SPRITE_CELLS**2).reshape(SPRITE_CELLS, SPRITE_CELLS)
    return targets


def _color_number(color: str | None) -> int:
    return 0 if color is None else 1 + COLORS.index(color)


def _cross_entropy(logits: Tensor, targets: np.ndarray, sizes: tuple[int, ...]) -> Tensor:
    """Logits [B, S, sum(sizes)] against targets [B, len(sizes), S]; summed over the questions."""
    wanted = torch.from_numpy(targets).to(logits.device)
    losses = [
        F.cross_entropy(part.float().transpose(1, 2), wanted[:, index], ignore_index=NO_NOUN)
        for index, part in enumerate(logits.split(sizes, dim=-1))
    ]
    return torch.stack(losses).sum()


def _scenes(batch: Batch) -> tuple[Scene, ...]:
    if not isinstance(batch, SceneBatch):
        raise ValueError("this network learns from drawn scenes; set data.name to scenes")
    return batch.scenes
