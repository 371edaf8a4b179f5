"""Which published weight files a run needs, and whether they are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpd_core.config import CheckpointError, nearest
from fpd_core.weight_files import FURTHER_FILES, WEIGHT_FILES, WeightFile

__all__ = ["WEIGHT_FILES", "RequiredFile", "WeightFile", "missing", "place_of", "pulls", "require", "weight_file"]


def weight_file(family: str, role: str) -> WeightFile:
    """The published file of a family's part. Raises ConfigError: unknown family or role."""
    roles = {file.role: file for file in (*WEIGHT_FILES.find(family), *FURTHER_FILES.get(family, ()))}
    if role not in roles:
        raise nearest(role, list(roles), f"file of {family}")
    return roles[role]


def place_of(field: str, files: Mapping[Any, WeightFile], wanted: object) -> dict[str, Path]:
    """{field: where the file of `wanted` belongs}; empty where none is published for it."""
    found = [file.local for key, file in files.items() if key == wanted]
    return {field: found[0]} if found else {}


@dataclass(frozen=True)
class RequiredFile:
    """A published file at the path where a run will open it."""

    path: Path
    file: WeightFile

    @property
    def present(self) -> bool:
        return self.path.is_file()

    @property
    def size(self) -> int | None:
        """Bytes on disk; None if absent."""
        return self.path.stat().st_size if self.present else None


def missing(files: Sequence[RequiredFile]) -> list[RequiredFile]:
    """Those that are not there, in the order given."""
    return [file for file in files if not file.present]


def require(files: Sequence[RequiredFile]) -> None:
    """Check that every file is there, before any of them is opened.

    Raises:
        CheckpointError: names all absent files at once, where each is published, where to put it, and the command.
    """
    absent = missing(files)
    if not absent:
        return
    count = "1 weight file is missing" if len(absent) == 1 else f"{len(absent)} weight files are missing"
    lines = [
        f"  {one.path} ({one.file.family} {one.file.role}): "
        f"file {one.file.filename} of huggingface.co/{one.file.repo_id}"
        for one in absent
    ]
    raise CheckpointError("\n".join([f"{count}:", *lines, f"Run {pulls(absent)}, or put the files at these paths."]))


def pulls(files: Sequence[RequiredFile]) -> str:
    """The commands that fetch these files, in words; roles are named where a family's own files are not all of them."""
    commands = []
    for family in dict.fromkeys(one.file.family for one in files):
        wanted = [one.file for one in files if one.file.family == family]
        roles = "" if set(wanted) <= set(WEIGHT_FILES[family]) else "".join(f" {file.role}" for file in wanted)
        commands.append(f"`fpd-train weights pull {family}{roles}`")
    return " and ".join(commands)
