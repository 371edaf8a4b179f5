"""A student as fpd exports it."""

from pathlib import Path
from typing import Literal

import torch

from fpd_core import load_generator
from fpd_eval.system_kinds.kind import SystemKind
from fpd_eval.systems import StudentSystem, System


class StudentKind(SystemKind):
    """A one-step generator: a folder that `fpd-train` wrote."""

    kind: Literal["student"] = "student"
    folder: Path

    def load(self, device: torch.device) -> System:
        return StudentSystem(self.name, load_generator(self.folder).to(device))
