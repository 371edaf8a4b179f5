"""Bytes on this machine: a file by position, the output of a command from end to end."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fpd_core.untrusted import open_regular, shown
from fpd_train.errors import DataError


class Local:
    """A file on this machine."""

    def __init__(self, path: str, *, scattered: bool = True) -> None:
        self._path = Path(path)
        self._file: Any = None
        self._scattered = scattered
        self._opening = threading.Lock()

    def stamp(self) -> tuple[int, str]:
        found = os.stat(self._path)
        return found.st_size, str(found.st_mtime_ns)

    def ranges(self, starts: Sequence[int], lengths: Sequence[int], coalesce: int = 0) -> list[bytes]:
        descriptor, pread = self._descriptor(), os.pread
        return [pread(descriptor, length, start) for start, length in zip(starts, lengths, strict=True)]

    def walked(self) -> Callable[[int, int], bytes]:
        descriptor = self._descriptor()
        return lambda position, length: os.pread(descriptor, length, position)

    def whole(self, limit: int, *, name: str) -> bytes | None:
        if not self._path.exists():
            return None
        with open_regular(self._path, error=DataError) as file:
            return bounded(file.read(limit + 1), limit, name, str(self._path))

    def _descriptor(self) -> int:
        """Closed by the garbage collector alone: another thread may be reading when it is no longer wanted."""
        with self._opening:  # of two files opened at once, one would be closed under its reader
            if self._file is None:
                file = open_regular(self._path, error=DataError).detach()
                if self._scattered:  # else the kernel reads 128 kB around every caption
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                self._file = file
        descriptor: int = self._file.fileno()
        return descriptor


@contextmanager
def command_output(url: str) -> Iterator[Callable[[int], bytes]]:
    """A function that reads what the command of `pipe:COMMAND` writes. Raises OSError: it failed."""
    process = subprocess.Popen(url.split(":", 1)[1], shell=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield process.stdout.read
        if process.stdout.read(1):  # it goes on, perhaps without end, and nobody wants that
            return
        if code := process.wait():
            raise OSError(f"the command ended with status {code}")
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
            process.wait()


class Command:
    """What a command writes; it has no positions."""

    def __init__(self, url: str) -> None:
        self._url = url

    def whole(self, limit: int, *, name: str) -> bytes | None:
        with command_output(self._url) as read:
            content = read(limit + 1)
        return bounded(content, limit, name, self._url)


def bounded(content: bytes, limit: int, name: str, url: str) -> bytes:
    """`content`. Raises DataError: it has more than `limit` bytes."""
    if len(content) > limit:
        raise DataError(f"{shown(url)} has more than {limit} bytes ({name})")
    return content
