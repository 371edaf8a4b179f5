"""A student as fpd exports it."""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core import Generator, load_generator
from fpd_core.checkpoints import WEIGHTS
from fpd_core.conditioning import Condition
from fpd_core.config import Location, Size
from fpd_core.hashing import hash_tensors
from fpd_eval.runtime.cache import hash_json
from fpd_eval.systems.kind import SystemKind
from fpd_eval.systems.system import GeneratingSystem, Role, System


class StudentKind(SystemKind):
    """A distilled generator: a folder that `fpd-train` wrote."""

    kind: Literal["student"] = "student"
    folder: Location = Field(description="Exported student.")
    steps: Size | None = Field(None, description="Forward passes; null: what it was exported with.")

    def load(self, device: torch.device) -> System:
        generator = load_generator(self.folder).to(device)
        return StudentSystem(self.name, generator if self.steps is None else generator.sampled(steps=self.steps))

    def checkpoints(self) -> list[Path]:
        return [Path(self.folder) / WEIGHTS]


class StudentSystem(GeneratingSystem):
    """A distilled student, in the steps it was exported with, or the teacher's own weights in one ("untrained")."""

    def __init__(self, name: str, generator: Generator, *, role: Role = "student") -> None:
        self.name, self.role, self._generator = name, role, generator
        self.num_classes, self.encoders = generator.model.num_classes, generator.encoders
        self.settings = generator.generation.model_dump(mode="json")
        self.steps, self.network_evaluations = generator.generation.steps, generator.network_evaluations
        self.fingerprint = hash_json(["one step", hash_tensors(generator.model.state_dict()), self.settings])

    @torch.no_grad()
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        return self._generator.generate(condition, seed=seed)
