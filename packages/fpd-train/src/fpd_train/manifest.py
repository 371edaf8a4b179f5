"""What vouches for a checkpoint: a list of its files with size and SHA-256, verified before any of them is opened."""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError

from fpd_core import atomic
from fpd_core.config import Config, Whole, explain
from fpd_core.untrusted import parse_object, read_bytes
from fpd_core.untrusted.limits import JSON_BYTES

MANIFEST = "manifest.json"


class FileRecord(Config):
    """One file as it was written."""

    path: str = Field(description="Relative to the checkpoint, with forward slashes.")
    size: Whole = Field(ge=0, le=2**62, description="Bytes.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(Config):
    """All files of a checkpoint but the manifest itself."""

    format: Literal["fpd-checkpoint"] = "fpd-checkpoint"
    format_version: Literal[1] = 1
    files: tuple[FileRecord, ...]


def record(folder: Path, path: Path) -> FileRecord:
    """Size and checksum of a file inside `folder`."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=checksum)


def files_of(folder: Path) -> list[Path]:
    """Every file below `folder` except the manifest, sorted: the same list on all ranks."""
    return sorted(path for path in folder.rglob("*") if not path.is_dir() and path != folder / MANIFEST)


def write(folder: Path, records: Iterable[FileRecord]) -> str:
    """Write the manifest, the last file of a checkpoint; returns its own checksum. Raises OSError."""
    text = Manifest(files=tuple(sorted(records, key=lambda one: one.path))).model_dump_json(indent=1)
    atomic.write_text(folder / MANIFEST, text)
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path, checksum: str | None) -> Manifest:
    """The manifest of a checkpoint.

    Args:
        checksum: what the pointer says of it; None where no pointer names it.

    Raises:
        ValueError: absent, not the one the pointer names, malformed, or not a list of the files that are there.
    """
    path = folder / MANIFEST
    content = read_bytes(path, limit=JSON_BYTES, name="JSON_BYTES")
    if checksum is not None and hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"{path} is not the one that was written: its checksum differs")
    try:
        manifest = Manifest.model_validate(parse_object(content, source=str(path)))
    except ValidationError as error:
        raise explain(error, str(path)) from None
    listed = {str(PurePosixPath(one.path)) for one in manifest.files}
    found = {file.relative_to(folder).as_posix() for file in files_of(folder)}
    if listed != found:
        some = sorted(listed ^ found)[0]
        raise ValueError(f"{folder / some} is {'missing' if some in listed else 'not in the manifest'}")
    return manifest


def verify(folder: Path, records: Iterable[FileRecord]) -> None:
    """Compare files with their records.

    Raises:
        ValueError: names the first file that differs.
    """
    for expected in records:
        path = folder / expected.path
        try:
            if path.is_symlink() or not path.is_file():
                raise ValueError(f"{path} is not a plain file")
            if path.stat().st_size != expected.size or record(folder, path) != expected:
                raise ValueError(f"{path} is damaged: its checksum differs")
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
