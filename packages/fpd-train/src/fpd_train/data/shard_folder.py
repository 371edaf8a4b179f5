"""Where shards lie: a local folder, or, where the config allows its scheme by name, a URL that webdataset opens.

Names come from `sizes.json`, a data file: they never choose how something is opened and never leave the folder.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import webdataset as wds

from fpd_core.untrusted import open_regular, shown
from fpd_core.untrusted.archives import Readable
from fpd_train.errors import DataError

Scheme = Literal["pipe", "http", "https", "s3"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# Harmless in a URL and in a shell; ".." and hidden files do not match.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*(/[A-Za-z0-9_][A-Za-z0-9_.+=@-]*)*")


def scheme_of(folder: str) -> str | None:
    """`http` of `http://host/shards`, `pipe` of `pipe:cat shards`; None for a local folder."""
    found = _SCHEME.match(folder)
    return found[1].lower() if found else None


def check_scheme(folder: str, allowed: Sequence[Scheme]) -> None:
    """Raises ValueError: `folder` names a scheme that is not allowed."""
    scheme = scheme_of(folder)
    if scheme is not None and scheme not in allowed:
        raise ValueError(
            f"folder {shown(folder)!r} begins with {scheme!r}, which is not among allow {list(allowed)}; "
            "allow it there, or write ./ before the name of a local folder"
        )


def check_name(name: str, listed_in: str) -> None:
    """Raises DataError: a shard's name could lead somewhere else."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{listed_in} lists {shown(name)!r}; a shard's name is a path below the folder of letters, digits, _.+=@-"
        )


@contextmanager
def opened(folder: str, name: str) -> Iterator[Readable]:
    """The stream of a file in the folder.

    Raises:
        DataError: absent, no regular file, outside the folder through a link, or a command or server fails.
    """
    scheme = scheme_of(folder)
    if scheme is None:
        with open_regular(_inside(Path(folder), name), error=DataError) as file:
            yield file
        return
    url = f"{folder}/{name}"
    try:
        with wds.gopen(f"pipe:aws s3 cp {shlex.quote(url)} -" if scheme == "s3" else url) as pipe:
            yield pipe
    except OSError as error:
        raise DataError(f"{shown(url)} cannot be read: {shown(error)}") from None


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} is a link that leaves {folder}")
    return path
