"""Opening files that fpd did not write: regular files only, no more bytes than a named limit."""

import os
import stat
from io import BufferedReader
from pathlib import Path

Failure = type[ValueError]
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_SHOWN = 200  # characters of outside text in a message


class UntrustedError(ValueError):
    """A file from outside is absent or not what it should be; the message names it."""


def printable(text: object, *, keep: str = "") -> str:
    """Outside text without what a terminal obeys: escapes take the place of all unprintable characters but `keep`."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text))


def shown(text: object) -> str:
    """Outside text fit for a message: one line, no control characters, not endless."""
    line = printable(str(text)[: _SHOWN + 1])
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def open_regular(path: Path, *, error: Failure = UntrustedError) -> BufferedReader:
    """Open a regular file for reading. A FIFO would hang, a device may act or never end.

    Raises:
        error: absent, unreadable, or a folder, FIFO, socket or device.
    """
    try:
        mode = os.stat(path).st_mode
        # Whatever takes the file's place meanwhile neither hangs nor passes.
        file = os.fdopen(os.open(path, _FLAGS), "rb") if stat.S_ISREG(mode) else None
    except OSError as cause:
        raise error(f"{shown(path)}: {cause.strerror}") from None
    except ValueError as cause:
        raise error(f"{shown(path)} is no path: {cause}") from None
    if file is None:
        raise _not_regular(mode, path, error)
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        raise _not_regular(mode, path, error)
    return file


def require_files_only(folder: Path, *, error: Failure = UntrustedError) -> None:
    """For files and folders that a library opens by itself. Raises `error`: a FIFO, socket or device is among them."""
    for path in (folder, *folder.rglob("*")):
        if path.exists() and not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
            raise _not_regular(path.stat().st_mode, path, error)


def _not_regular(mode: int, path: Path, error: Failure) -> ValueError:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return error(f"{shown(path)} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


def read_text(path: Path, *, limit: int, name: str, error: Failure = UntrustedError) -> str:
    """A text without its byte order mark. Raises `error`: as `read_bytes`, or it is not UTF-8."""
    try:
        return read_bytes(path, limit=limit, name=name, error=error).decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{shown(path)} is not UTF-8 text (byte {cause.start})") from None


def read_bytes(path: Path, *, limit: int, name: str, error: Failure = UntrustedError) -> bytes:
    """A file's content.

    Args:
        limit: bytes it may have at most; `name` is what the limit is called.

    Raises:
        error: see `open_regular`; or the file is larger.
    """
    with open_regular(path, error=error) as file:
        try:
            content = file.read(limit + 1)
        except OSError as cause:
            raise error(f"{shown(path)}: {cause.strerror}") from None
    if len(content) > limit:
        raise error(f"{shown(path)} has more than {limit} bytes ({name})")
    return content
