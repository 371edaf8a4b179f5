"""Gzipped files and tar archives from outside, read in memory and within a limit; nothing is unpacked to the disk."""

import gzip
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from fpd_core.untrusted.files import Failure, UntrustedError, open_regular, shown
from fpd_core.untrusted.limits import ARCHIVE_BYTES

_GZIP = b"\x1f\x8b"
# What reading damaged archives raises.
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, struct.error, zlib.error)


class Readable(Protocol):
    """A stream that need not seek: a file, a pipe."""

    def read(self, size: int = -1, /) -> bytes: ...


class _TooLarge(ValueError):
    """More than the limit."""


class _Sparse(ValueError):
    """A member of zeros that the archive does not hold; its name."""


class _Bounded:
    """`stream` from `head` on; refuses to give more than `limit` bytes."""

    def __init__(self, stream: Readable, *, limit: float = float("inf"), head: bytes = b"") -> None:
        self._stream, self._left, self._head = stream, limit, head

    def read(self, size: int = -1, /) -> bytes:
        data, self._head = (self._head, b"") if self._head else (self._stream.read(size), b"")
        self._left -= len(data)
        if self._left < 0:
            raise _TooLarge
        return data


def read_gzip(path: Path, *, limit: int = ARCHIVE_BYTES, error: Failure = UntrustedError) -> bytes:
    """The content of a gzipped file.

    Raises:
        error: no regular file, not gzip, damaged, or larger than `limit` when decompressed.
    """
    with open_regular(path, error=error) as file:
        try:
            content = gzip.GzipFile(fileobj=file).read(limit + 1)
        except _DAMAGE as cause:
            raise error(f"{shown(path)} is damaged or not gzipped: {shown(cause)}") from None
    if len(content) > limit:
        raise _too_large(shown(path), limit, error)
    return content


def tar_members(
    stream: Readable, *, source: str, limit: int = ARCHIVE_BYTES, error: Failure = UntrustedError
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the regular files in a tar, gzipped or not, in their order.

    Args:
        source: names the archive in messages.
        limit: bytes of the whole archive after decompression.

    Raises:
        error: damaged, larger than `limit`, or with a sparse file, which would be zeros out of nothing.
    """
    try:
        head = stream.read(len(_GZIP))
        joined = _Bounded(stream, head=head)
        plain: Readable = gzip.GzipFile(fileobj=joined) if head == _GZIP else joined  # type: ignore[call-overload]
        bounded: IO[bytes] = _Bounded(plain, limit=limit)  # type: ignore[assignment]  # a tar in "r|" only reads
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                if member.issparse():
                    raise _Sparse(member.name)
                if member.size > limit:
                    raise _TooLarge
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield member.name, file.read()
    except _TooLarge:
        raise _too_large(source, limit, error) from None
    except _Sparse as cause:
        raise error(f"{source}: {shown(cause)} is a sparse file") from None
    except _DAMAGE as cause:
        raise error(f"{source} cannot be read: {shown(cause)}") from None


def _too_large(source: str, limit: int, error: Failure) -> ValueError:
    return error(f"{source} holds more than {limit} bytes after decompression (ARCHIVE_BYTES)")
