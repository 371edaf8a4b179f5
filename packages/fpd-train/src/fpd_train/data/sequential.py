"""Samples of a shard that cannot seek, one after the other: a command's output, a compressed tar, a server's stream."""

import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fpd_core.untrusted import open_regular, shown
from fpd_core.untrusted.tar_index import GZIP, Member, TarDamage, locate_members
from fpd_train.data.bad_samples import TRUNCATED
from fpd_train.data.filters import columns, json_record, wanted
from fpd_train.data.grouping import Bad, Grouping, limit_of, split
from fpd_train.data.local import command_output
from fpd_train.data.places import scheme_of
from fpd_train.data.remote import Remote
from fpd_train.data.shard_index import Plan
from fpd_train.errors import DataError

_PIECE = 2**18
_PADDING = 4  # pieces

Read = Callable[[int], bytes]


class Found(NamedTuple):
    """A sample of a stream: its members, or why it has none that can be used, or nothing if filters leave it out."""

    key: str
    members: list[bytes] | None
    bad: list[Bad]


class Forward:
    """A stream as a function of (position, bytes wanted), for positions that only grow."""

    def __init__(self, read: Read) -> None:
        self._read, self._held, self._base, self.at_end = read, b"", 0, False

    def __call__(self, position: int, length: int) -> bytes:
        while (skip := position - self._base) > len(self._held) and not self.at_end:
            self._base += len(self._held)
            self._held = b""
            self._fill(min(skip, _PIECE))
        self._held, self._base = self._held[skip:], position
        while len(self._held) < length and not self.at_end:
            self._fill(max(length - len(self._held), _PIECE))
        return self._held[:length]

    def _fill(self, wanted: int) -> None:
        piece = self._read(wanted)
        self.at_end = not piece
        self._held += piece


def samples(url: str, plan: Plan) -> Iterator[Found]:
    """The samples of one shard in their order; members of one sample must stand together.

    Raises:
        OSError: the command failed.
    """
    with _opened(url) as read:
        forward = Forward(read)
        damage = yield from _grouped(forward, plan)
        for _ in range(_PADDING):  # behind the end mark; a command that is cut off there would fail for that
            if forward.at_end:
                break
            forward.at_end = not read(_PIECE)
    if damage is not None:  # of the tar itself, then: the source did not fail
        yield damage


def _grouped(forward: Forward, plan: Plan) -> Generator[Found, None, Found | None]:
    grouping, bodies, key, damage = Grouping(plan.wanted), dict[Member, bytes](), "", ""
    try:
        for member in locate_members(forward):
            own, ending = split(member.name)
            if not own:
                continue
            if own != key and key:
                yield _found(grouping, bodies, key, plan)
                grouping, bodies = Grouping(plan.wanted), {}
            key = own
            is_wanted = ending == "json" or any(ending in group for group in plan.wanted)
            if is_wanted and member.size <= limit_of(ending)[0]:
                bodies[member] = forward(member.offset, member.size)
                if len(bodies[member]) < member.size:
                    raise TarDamage(f"ends within {shown(member.name)}")
            grouping.add(member)
    except TarDamage as error:
        damage = f"the tar {error}"
    if key and (not damage or not grouping.problems(key)):
        yield _found(grouping, bodies, key, plan)
    return Found(key, None, [Bad(TRUNCATED, key, damage)]) if damage else None


def _found(grouping: Grouping, bodies: dict[Member, bytes], key: str, plan: Plan) -> Found:
    bad, sample = grouping.problems(key), grouping.samples[key]
    if bad:
        return Found(key, None, bad)
    if plan.filters:
        record = json_record(bodies[sample.json]) if sample.json in bodies else None
        if record is None and sample.txt in bodies and columns(plan.filters) == ["caption"]:
            record = {"caption": str(bodies[sample.txt], "utf-8", "replace")}
        if not wanted(plan.filters, record):
            return Found(key, None, [])
    return Found(key, [bodies[member] for member in sample.members if member is not None], [])


@contextmanager
def _opened(url: str) -> Iterator[Read]:
    """A function that reads at most so many bytes, decompressed; none at the end."""
    scheme = scheme_of(url)
    if scheme == "pipe":
        with command_output(url) as read:
            yield _plain(read)
    elif scheme is None:
        with open_regular(Path(url), error=DataError) as file:
            yield _plain(file.read)
    else:
        pieces = iter(Remote(url).stream())
        yield _plain(lambda size: bytes(next(pieces, b"")))


def _plain(read: Read) -> Read:
    """The stream decompressed, if it begins as gzip does."""
    head = b""
    while len(head) < len(GZIP) and (piece := read(_PIECE)):
        head += piece
    if not head.startswith(GZIP):
        return _after(head, read)
    unpacked = _gunzipped(_after(head, read))
    return lambda size: next(unpacked, b"")


def _after(head: bytes, read: Read) -> Read:
    def rest(size: int) -> bytes:
        nonlocal head
        if head:
            piece, head = head, b""
            return piece
        return read(size)

    return rest


def _gunzipped(read: Read) -> Iterator[bytes]:
    """Pieces of bounded size, whatever they were packed into; a damaged rest ends the stream as a cut would."""
    while packed := read(_PIECE):
        unpack = zlib.decompressobj(wbits=31)
        while packed:
            try:
                yield from filter(None, [unpack.decompress(packed, _PIECE)])
            except zlib.error:
                return
            packed = unpack.unconsumed_tail or (unpack.unused_data if unpack.eof else b"") or read(_PIECE)
            if unpack.eof:
                unpack = zlib.decompressobj(wbits=31)
