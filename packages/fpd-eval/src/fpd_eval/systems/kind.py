"""What every kind of system is: a section of a JSON file that opens as a `System`."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from fpd_core.checkpoints import read_section
from fpd_core.config import Config, Line, Name
from fpd_core.places import bundled
from fpd_core.teachers import Teacher, load_teacher, teacher_config
from fpd_core.untrusted import shown
from fpd_eval.systems.system import System

ENCODERS = "Networks that its training's loss compared images with, as efficientnet_lite0 or pixels; null: unknown."


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

    def checkpoints(self) -> list[Path]:
        """The weight files that make the images, for the record; none where they have no place on this machine."""
        return []


def teacher_files(wanted: str | dict[str, Any]) -> list[Path]:
    """Weight files of a teacher named as `open_teacher` takes it. Raises ConfigError: unknown family or key."""
    return teacher_config(_section(wanted)).weight_files()


def open_teacher(wanted: str | dict[str, Any], device: torch.device) -> Teacher:
    """A teacher by family name, by weight folder or by its own config section.

    Raises:
        ConfigError: unknown family or key.
        CheckpointError: its weights are absent or damaged.
    """
    return load_teacher(_section(wanted)).to(device)


def _section(wanted: str | dict[str, Any]) -> str | dict[str, Any]:
    """A weight folder as a section."""
    if isinstance(wanted, str) and bundled(Path(shown(wanted))).is_dir():
        return {"name": read_section(Path(wanted), "architecture").get("name"), "path": wanted}
    return wanted
