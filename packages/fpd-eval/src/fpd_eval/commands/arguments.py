"""Students, systems and results as `fpd-eval compare` is told them: `NAME=PLACE,PLACE`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fpd_eval.commands.usage import given, student_folder

if TYPE_CHECKING:
    from fpd_eval.report.entrants import Candidate, SystemFiles


def candidate(argument: str, *, alone: bool, write_card: bool = False) -> "Candidate":
    """`NAME=DIR,DIR` or `DIR`; without a name the folder's, or "student" where there is only one.

    Raises:
        CheckpointError: the hub did not give a repository.
        ValueError: several without a name, or a card to write that is no folder's.
    """
    from fpd_core.hub import is_repository
    from fpd_eval.report.entrants import Candidate

    name, folders = _named(argument)
    if name is None and len(folders) > 1:
        raise ValueError(f"several training seeds need a name, as in: --ckpt fpd={argument}")
    own = folders[0].resolve()  # of a repository too: what was fetched lies in a folder of another name
    found = [student_folder(str(folder), write_card=write_card) for folder in folders]
    beside = Path() if is_repository(str(folders[0])) else folders[0].parent
    return given(Candidate, name=name or ("student" if alone else own.name), folders=found, beside=beside)


def system_files(argument: str) -> "SystemFiles":
    """`NAME=JSON,JSON` or `JSON`. Raises ValueError: several without a name."""
    from fpd_eval.report.entrants import SystemFiles

    name, files = _named(argument)
    if name is None and len(files) > 1:
        raise ValueError(f"several training seeds need a name, as in: --systems fpd={argument}")
    return given(SystemFiles, name=name, files=files)


def named_files(argument: str) -> tuple[str, list[Path]]:
    """`NAME=FILE,FILE`. Raises ValueError: it is not."""
    name, separator, files = argument.partition("=")
    if not (separator and name and files):
        raise ValueError(f"--geneval is NAME=FILE, as in: --geneval TDM=geneval/TDM/results.jsonl; got {argument!r}")
    return name, _paths(files)


def row_pair(argument: str) -> tuple[str, str]:
    """`ROW,ROW`; a comma with a space behind it belongs to a name. Raises ValueError: it is not that."""
    rows = re.split(r",(?! )", argument)
    if len(rows) != 2 or not all(rows):
        raise ValueError(f"--pair is two rows, as in: --pair fpd,dimo; got {argument!r}")
    return rows[0], rows[1]


def _named(argument: str) -> tuple[str | None, list[Path]]:
    """`NAME=PATHS` or `PATHS`: a name holds no slash."""
    name, separator, paths = argument.partition("=")
    return (name, _paths(paths)) if separator and "/" not in name else (None, _paths(argument))


def _paths(text: str) -> list[Path]:
    """One path per training seed, between commas; names may hold some."""
    return [Path(text)] if Path(text).exists() else [Path(part) for part in text.split(",")]
