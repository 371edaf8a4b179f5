"""The bundled text-to-image world itself: true scenes of the prompts, what a perfect generator would make."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import Condition, PromptCondition
from fpd_core.config import Flag, Location
from fpd_core.hashing import hash_tensors
from fpd_core.networks.patch_tokenizer import PatchTokenizer, load_patch_tokenizer
from fpd_core.places import bundled
from fpd_core.scenes import Drawing
from fpd_core.scenes.captions import all_records
from fpd_core.scenes.layouts import place
from fpd_core.scenes.vocabulary import TASKS
from fpd_eval.runtime.cache import hash_file, hash_json
from fpd_eval.systems.kind import SystemKind
from fpd_eval.systems.system import GeneratingSystem, Role, System


class DrawnKind(SystemKind):
    """Scenes drawn from the sprites, by default as the tokenizer gives them back: the ceiling of its generators."""

    needs_prompts = True
    kind: Literal["drawn"] = "drawn"
    sprites: Location = Field(Path("assets/scenes/sprites"), description="Folder of the sheet of objects.")
    tokenizer: Location = Field(Path("assets/scenes/tokenizer"), description="Weight folder of the tokenizer.")
    reconstructed: Flag = Field(True, description="Whether the pictures pass through the tokenizer.")

    def load(self, device: torch.device) -> System:
        tokenizer = load_patch_tokenizer(self.tokenizer).to(device) if self.reconstructed else None
        return DrawnSystem(self, tokenizer, device)


class DrawnSystem(GeneratingSystem):
    """Layout and background of an image follow from the seed and its place in the batch.

    Raises:
        CheckpointError: sprites or tokenizer are absent or damaged.
    """

    role: Role = "external"
    steps, network_evaluations = 1, 1

    def __init__(self, config: DrawnKind, tokenizer: PatchTokenizer | None, device: torch.device) -> None:
        self.name, self._tokenizer, self._device = config.name, tokenizer, device
        self._drawing = Drawing(config.sprites)
        self._records = {record["prompt"]: record for task in TASKS for record in all_records(task)}
        self.settings = {"reconstructed": config.reconstructed}
        weights = None if tokenizer is None else hash_tensors(tokenizer.state_dict())
        sheets = [hash_file(path) for path in sorted(bundled(Path(config.sprites)).glob("*.png"))]
        self.fingerprint = hash_json(["drawn", sheets, weights])

    @torch.no_grad()
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        """[B, 3, 64, 64] in [0, 1]. Raises ValueError: a prompt that this world has no words for."""
        if not isinstance(condition, PromptCondition):
            raise ValueError(f"{self.name} draws prompts, not {type(condition).__name__}")
        unknown = [prompt for prompt in condition.prompts if prompt not in self._records]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no prompt of the bundled world")
        scenes = [
            place(np.random.default_rng([seed, number]), self._records[prompt])
            for number, prompt in enumerate(condition.prompts)
        ]
        images = torch.from_numpy(np.stack([self._drawing(scene) for scene in scenes])).to(self._device)
        if self._tokenizer is None:
            return images
        return self._tokenizer.decode(self._tokenizer.codebook[self._tokenizer.encode(images)]).clamp(0, 1)
