"""Bytes of a shard by position: `pread` of a local file, range requests of an object in a bucket or on a web server."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fpd_core.untrusted import open_regular, shown
from fpd_train.errors import DataError

T = TypeVar("T")
FIRST_WAIT_SECONDS = 0.25  # before the first retry; each further one waits twice as long
_BLOCK = 4 * 2**20  # bytes of one request of a walk
_STREAM = 2**20


class Whole(Protocol):
    """What can be read from end to end."""

    def whole(self, limit: int, *, name: str) -> bytes | None:
        """All of it, None where there is none. Raises DataError: more than `limit`, which is called `name`."""
        ...


class Stored(Whole, Protocol):
    """A file somewhere, whose pieces can be read by position."""

    def stamp(self) -> tuple[int, str]:
        """Its size and what changes when its content does."""
        ...

    def ranges(self, starts: Sequence[int], lengths: Sequence[int], coalesce: int = 0) -> list[bytes]:
        """Pieces of it, shorter only where the file ends; gaps of up to `coalesce` bytes may be read along."""
        ...

    def walked(self) -> Callable[[int, int], bytes]:
        """A function of (position, bytes wanted) for positions that only grow."""
        ...


def stored(url: str, *, scattered: bool = True) -> Stored:
    """What a path or a URL names; nothing is opened yet. `scattered`: pieces will be read here and there."""
    return Remote(url) if "://" in url else Local(url, scattered=scattered)


def content_of(url: str, limit: int, *, name: str) -> bytes | None:
    """All that a path, a URL or a command gives, None where there is nothing.

    Raises:
        DataError: more than `limit` bytes, which is called `name`; or the source fails.
    """
    source: Whole = Command(url) if url[:5].lower() == "pipe:" else stored(url)
    return retried(lambda: source.whole(limit, name=name), 0, url)


def retried(work: Callable[[], T], retries: int, url: str) -> T:
    """`work()`, tried again after failures of the source. Raises DataError: it failed `retries` times more."""
    for attempt in range(retries + 1):
        try:
            return work()
        except (DataError, MemoryError):
            raise
        except Exception as error:  # of the operating system, or any of obstore's
            if _is_final(error) or attempt == retries:
                tries = f" ({attempt + 1} tries)" if attempt else ""
                raise DataError(f"{shown(url)} cannot be read{tries}: {reason(error)}") from None
            time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError


def reason(error: Exception) -> str:
    """The first line; obstore's go on with a dump of the request."""
    if type(error).__name__ == "NotSupportedError":
        return "the server answers no range requests; add 'sequential' to allow"
    lines = str(error).strip().splitlines()
    return shown(lines[0].strip()) if lines else type(error).__name__


def _is_final(error: Exception) -> bool:
    """Whether trying again cannot help."""
    names = {kind.__name__ for kind in type(error).__mro__}
    final = {"NotFoundError", "PermissionDeniedError", "UnauthenticatedError", "NotSupportedError", "FileNotFoundError"}
    return bool(names & {*final, "PermissionError", "ValueError"})


class Local:
    """A file on this machine."""

    def __init__(self, path: str, *, scattered: bool = True) -> None:
        self._path = Path(path)
        self._file: Any = None
        self._scattered = scattered

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
            return _bounded(file.read(limit + 1), limit, name, str(self._path))

    def _descriptor(self) -> int:
        """Closed by the garbage collector alone: another thread may be reading when it is no longer wanted."""
        if self._file is None:
            self._file = open_regular(self._path, error=DataError).detach()
            if self._scattered:  # else the kernel reads 128 kB around every caption
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        descriptor: int = self._file.fileno()
        return descriptor


class Remote:
    """An object behind `http(s)://`, `s3://` or `gs://`; credentials come from where their own tools look for them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder, _, self._name = url.rpartition("/")

    def stamp(self) -> tuple[int, str]:
        meta = _obstore().head(_bucket(self._folder), self._name)
        return int(meta["size"]), str(meta.get("e_tag") or meta["last_modified"])

    def ranges(self, starts: Sequence[int], lengths: Sequence[int], coalesce: int = 0) -> list[bytes]:
        if not starts:
            return []
        found = _obstore().get_ranges(
            _bucket(self._folder), self._name, starts=starts, lengths=lengths, coalesce=coalesce
        )
        return [bytes(piece) for piece in found]

    def walked(self) -> Callable[[int, int], bytes]:
        size, block, base = self.stamp()[0], b"", 0

        def read_at(position: int, length: int) -> bytes:
            nonlocal block, base
            stop = min(position + length, size)
            if position >= size:
                return b""
            if not (base <= position and stop <= base + len(block)):
                base = position
                (block,) = self.ranges([position], [min(max(length, _BLOCK), size - position)])
            return block[position - base : stop - base]

        return read_at

    def whole(self, limit: int, *, name: str) -> bytes | None:
        try:
            found = _obstore().get(_bucket(self._folder), self._name)
        except FileNotFoundError:
            return None
        content = b""
        for piece in found.stream(min_chunk_size=_STREAM):
            content += bytes(piece)
            if len(content) > limit:
                break
        return _bounded(content, limit, name, self._url)

    def stream(self) -> Any:
        """Its bytes in pieces, from the first on."""
        return _obstore().get(_bucket(self._folder), self._name).stream(min_chunk_size=_STREAM)


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
        return _bounded(content, limit, name, self._url)


def list_remote(prefix: str) -> list[str]:
    """URLs of the objects whose URL begins with `prefix`, which ends in a folder of a bucket."""
    folder = prefix.rpartition("/")[0]
    found = _obstore().list(_bucket(folder)).collect()
    inside = folder.split("://", 1)[1].partition("/")[2]
    return [f"{folder}/{meta['path'].removeprefix(inside).lstrip('/')}" for meta in found]


def _bounded(content: bytes, limit: int, name: str, url: str) -> bytes:
    if len(content) > limit:
        raise DataError(f"{shown(url)} has more than {limit} bytes ({name})")
    return content


@lru_cache(maxsize=64)
def _bucket(folder: str) -> Any:
    from obstore.store import from_url

    plain: Any = {"allow_http": folder.startswith("http:")}
    never: Any = {"max_retries": 0}  # `retried` does that
    return from_url(folder, client_options=plain, retry_config=never)


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise DataError("URLs of shards need the package obstore: pip install 'fpd-train[cloud]'") from None
    return obstore
