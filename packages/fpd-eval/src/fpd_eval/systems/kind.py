"""What every kind of system is: a section of a JSON file that opens as a `System`."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from fpd_core.checkpoints import read_section
from fpd_core.config import Config, Line, Name
from fpd_core.teachers import Teacher, load_teacher
from fpd_core.untrusted import shown
from fpd_eval.systems.system import System


class SystemKind(Config):
    """One system of a comparison. Each kind adds its own `kind`, which tells the sections apart."""

    name: Name = Field(description="In tables and reports.")
    published_as: str | None = Field(None, description="Its name in the published tables, where it has one.")
    note: Line = Field("", description="What a reader of its numbers must know.")
    needs_prompts: ClassVar[bool] = False

    @abstractmethod
    def load(self, device: torch.device) -> System:
        """Open the system.

        Raises:
            CheckpointError: weights are absent, damaged or do not fit.
            ValueError: an option is out of range.
        """


def open_teacher(wanted: str | dict[str, Any], device: torch.device) -> Teacher:
    """A teacher by family name, by weight folder or by its own config section.

    Raises:
        ConfigError: unknown family or key.
        CheckpointError: its weights are absent or damaged.
    """
    if isinstance(wanted, str) and Path(shown(wanted)).is_dir():
        wanted = {"name": read_section(Path(wanted), "architecture").get("name"), "path": wanted}
    return load_teacher(wanted).to(device)
