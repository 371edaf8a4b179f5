"""A public one-step checkpoint of another method on a family that fpd knows."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from fpd_core import Generator
from fpd_core.config import Location, Name
from fpd_core.containers import load_public
from fpd_core.generator import GenerationConfig
from fpd_eval.systems.kind import ENCODERS, SystemKind, open_teacher, teacher_files
from fpd_eval.systems.student import StudentSystem
from fpd_eval.systems.system import System


class CheckpointKind(SystemKind):
    """Published weights of the family's network; tokenizer, decoder and conditions come from the teacher.

    `generation` belongs to the checkpoint: it must be what its authors sample with.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    teacher: str | dict[str, Any] = Field(description="Family name, weight folder, or the family's own section.")
    weights: Location = Field(description="File of the network: safetensors or a PyTorch state dict.")
    generation: GenerationConfig = Field(description="How the network draws, as in a student's config.json.")
    encoders: tuple[Name, ...] | None = Field(None, description=ENCODERS)

    def load(self, device: torch.device) -> System:
        teacher = open_teacher(self.teacher, device)
        load_public(teacher.network, self.weights)
        return StudentSystem(self.name, Generator(teacher, self.generation, {}, self.encoders), role="baseline")

    def checkpoints(self) -> list[Path]:
        return [*teacher_files(self.teacher), Path(self.weights)]
