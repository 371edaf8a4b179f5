"""A student as fpd exports it."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fpd_core import Generator, load_generator
from fpd_core.checkpoints import WEIGHTS
from fpd_core.conditioning import Condition
from fpd_core.config import Location
from fpd_eval.runtime.cache import hash_json, hash_tensors
from fpd_eval.systems.kind import SystemKind
from fpd_eval.systems.system import GeneratingSystem, Role, System


class StudentKind(SystemKind):
    """A one-step generator: a folder that `fpd-train` wrote."""

    kind: Literal["student"] = "student"
    folder: Location

    def load(self, device: torch.device) -> System:
        return StudentSystem(self.name, load_generator(self.folder).to(device))

    def checkpoints(self) -> list[Path]:
        return [Path(self.folder) / WEIGHTS]


class StudentSystem(GeneratingSystem):
    """A one-step generator: a distilled student, or the teacher's own weights used in one step ("untrained")."""

    steps, network_evaluations = 1, 1

    def __init__(self, name: str, generator: Generator, *, role: Role = "student") -> None:
        self.name, self.role, self._generator = name, role, generator
        self.num_classes, self.encoders = generator.model.num_classes, generator.encoders
        self.settings = generator.generation.model_dump(mode="json")
        self.fingerprint = hash_json(["one step", hash_tensors(generator.model.state_dict()), self.settings])

    @torch.no_grad()
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        return self._generator.generate(condition, seed=seed)
