"""Where the files of a tar lie: its headers read one after the other, the contents skipped.

POSIX ustar with PAX and GNU headers (IEEE Std 1003.1-2017, pax; GNU tar manual, "Basic Tar Format"), as far as they
decide where a file lies and what it is called.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fpd_core.untrusted.limits import JSON_BYTES

ReadAt = Callable[[int, int], bytes]  # (position, bytes wanted): fewer only where the archive ends

BLOCK = 512
GZIP = b"\x1f\x8b"
_AHEAD = 4 * BLOCK  # a PAX header, its one block of records, the file's own header and a short file
_NO_CONTENT = b"123456"  # links, devices, folders, FIFOs: their size says nothing
_ADLER = 65521


class Member(NamedTuple):
    """A regular file in a tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


class TarDamage(ValueError):
    """The tar cannot be read beyond this point; what came before is good."""


def locate_members(read_at: ReadAt) -> Iterator[Member]:
    """The regular files of an uncompressed tar, in their order; positions given to `read_at` never decrease.

    A file whose content is cut off is given all the same: where it ends decides who knows the archive's length.

    Raises:
        TarDamage: the archive ends without its end mark, a header is damaged, or a file is sparse.
    """
    window, base = b"", 0
    position, name, size = 0, None, None  # `name` and `size` as extended headers announce them for the next file
    while True:
        if not base <= position <= base + len(window) - BLOCK:
            window, base = read_at(position, _AHEAD), position
        header = window[position - base :][:BLOCK]
        if len(header) < BLOCK:
            raise TarDamage(f"ends at byte {position + len(header)} without its end mark")
        if not any(header):
            return
        length, kind = _checked(header, position), header[156:157]
        body, position = position + BLOCK, position + BLOCK
        if kind in b"xL":
            if length > JSON_BYTES:
                raise TarDamage(f"has an extended header of {length} bytes at byte {body - BLOCK}")
            content = window[body - base :][:length]
            if len(content) < length:
                content = read_at(body, length)
            if kind == b"L":
                name = content.split(b"\0")[0]
            else:
                name, size = _records(content, body, name, size)
        else:
            if size is not None:
                length = size
            if kind in b"07\0":
                yield Member((name or _name(header)).decode("utf-8", "surrogateescape"), body, length)
            elif kind == b"S":
                raise TarDamage(f"has a sparse file at byte {body - BLOCK}")
            elif kind in _NO_CONTENT:
                length = 0
            if kind not in b"gK":
                name, size = None, None
        position += -(-length // BLOCK) * BLOCK


def name_before(read_at: ReadAt, offset: int) -> str:
    """The name in the header before the content at `offset`, cut at 255 characters by the format."""
    return _name(read_at(offset - BLOCK, BLOCK).ljust(BLOCK, b"\0")).decode("utf-8", "surrogateescape")


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _checked(header: bytes, position: int) -> int:
    """The size field of a header whose sum is right. Adler's low half is the sum of all bytes, plus 1, mod 65521."""
    stored = header[148:156]
    total = zlib.adler32(header) % 2**16 - 1 - sum(stored) + 8 * 32
    try:
        if (total - int(stored.strip(b" \0"), 8)) % _ADLER:
            raise ValueError
        field = header[124:136]
        if field[0] & 0x80:  # base 256, of files of 8 GiB and more
            return int.from_bytes(field[1:], "big") + ((field[0] & 0x7F) << 88)
        length = int(field.strip(b" \0") or b"0", 8)
        if length < 0:
            raise ValueError
        return length
    except ValueError:
        raise TarDamage(f"has no valid header at byte {position}") from None


def _records(content: bytes, position: int, name: bytes | None, size: int | None) -> tuple[bytes | None, int | None]:
    """`name` and `size`, or what PAX records `LENGTH KEY=VALUE` say instead."""
    try:
        while content:
            length = int(content[: content.index(b" ")])
            record, content = content[:length], content[length:]
            if length <= 0 or not record.endswith(b"\n"):
                raise ValueError
            key, value = record[record.index(b" ") + 1 : -1].split(b"=", 1)
            if key == b"path":
                name = value
            elif key == b"size":
                size = int(value)
                if size < 0:
                    raise ValueError
            elif key.startswith(b"GNU.sparse."):
                raise TarDamage(f"has a sparse file at byte {position - BLOCK}")
    except TarDamage:
        raise
    except ValueError:
        raise TarDamage(f"has a damaged extended header at byte {position - BLOCK}") from None
    return name, size
