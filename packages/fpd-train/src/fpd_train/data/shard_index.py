"""The index of a shard: where the wanted members of its good samples lie. Made once, kept outside the data.

One file a shard, named by the shard's place, size and time: a line of JSON, then offsets [n, m] int64 and sizes [n, m]
int32 of m members, and, where captions come from a parquet, the captions themselves. It is read through `mmap`.
"""

import hashlib
import json
import mmap
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpd_core import atomic
from fpd_core.untrusted import UntrustedError, parse_object, shown
from fpd_train.data.bad_samples import LOG
from fpd_train.data.filters import Filter
from fpd_train.data.places import Place
from fpd_train.data.shard_walk import Captions, Walk, walk_parquet, walk_tar
from fpd_train.data.storage import retried, stored
from fpd_train.errors import DataError

VERSION = 1
_HEADER = 4096


@dataclass(frozen=True)
class Plan:
    """What decides an index besides the shard.

    Args:
        wanted: the members of a sample, each by the endings it may have, the first one present counts.
        folder: where indexes are kept.
    """

    wanted: tuple[tuple[str, ...], ...]
    filters: tuple[Filter, ...]
    from_parquet: bool
    retries: int
    folder: Path

    def path(self, place: Place) -> Path:
        """The file of a shard's index. Raises DataError: the shard is absent."""
        url = _data_of(place, self)
        size, stamp = retried(lambda: stored(url).stamp(), self.retries, url)
        filters = [one.model_dump() for one in self.filters]
        home = place.url if "://" in place.url else os.path.abspath(place.url)
        key = [VERSION, home, place.expected, size, stamp, self.wanted, filters, self.from_parquet]
        return self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]}.idx"


@dataclass(frozen=True)
class Entry:
    """A shard as its index describes it, without the positions."""

    place: Place
    path: Path
    count: int
    size: int
    digest: str
    bad: Counter[str]
    filtered: int
    example: str


@dataclass(frozen=True)
class Positions:
    """Offsets and sizes [n, m] of a shard's good samples."""

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int32]


def default_folder() -> Path:
    """Where indexes are kept unless a config says otherwise: below `FPD_CACHE`, or the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpd"
    return Path(os.environ.get("FPD_CACHE") or cache) / "shards"


def build(place: Place, plan: Plan) -> None:
    """Walk a shard and keep its index, unless that is there. Raises DataError."""
    path = plan.path(place)
    if _header(path) is not None:
        return
    walk = retried(lambda: _walk(place, plan), plan.retries, place.url)
    for sample in walk.bad:
        LOG.warning("%s", sample.sentence(place.url))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, _packed(walk, place, plan))
    except OSError as error:
        raise DataError(
            f"the index of {shown(place.url)} cannot be kept in {plan.folder}: {error.strerror}; set data.index_folder"
        ) from None


def _walk(place: Place, plan: Plan) -> Walk:
    if plan.from_parquet:
        return walk_parquet(place, plan.filters)
    return walk_tar(place, plan.wanted, plan.filters)


def entry(place: Place, plan: Plan) -> Entry:
    """What a kept index says. Raises DataError: there is none, because the shard has changed since `build`."""
    path = plan.path(place)
    header = _header(path)
    if header is None:
        raise DataError(f"{shown(place.url)} has changed while it was indexed")
    bad: Counter[str] = Counter(header["bad"])
    return Entry(
        place, path, header["count"], header["size"], header["digest"], bad, header["filtered"], header["example"]
    )


def positions(entry: Entry, members: int) -> Positions:
    """The arrays of an index."""
    with entry.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        shape, count = (entry.count, members), entry.count * members
        offsets = np.frombuffer(bytes(content[_HEADER : _HEADER + 8 * count]), "<i8").reshape(shape)
        after = _HEADER + 8 * count
        sizes = np.frombuffer(bytes(content[after : after + 4 * count]), "<i4").reshape(shape)
    return Positions(offsets, sizes)


def _data_of(place: Place, plan: Plan) -> str:
    return place.url.removesuffix(".tar") + ".parquet" if plan.from_parquet else place.url


def _packed(walk: Walk, place: Place, plan: Plan) -> bytes:
    offsets = np.array(walk.offsets, "<i8").reshape(len(walk.offsets), 1 if plan.from_parquet else len(plan.wanted))
    arrays = offsets.tobytes() + np.array(walk.sizes, "<i4").tobytes()
    captions = b""
    if isinstance(walk, Captions):
        captions = walk.content
        arrays = (offsets + _HEADER + len(arrays)).astype("<i8").tobytes() + arrays[offsets.nbytes :]
    header: dict[str, Any] = {
        "version": VERSION,
        "count": len(walk.offsets),
        "members": 1 if plan.from_parquet else len(plan.wanted),
        "captions": len(captions),
        "size": walk.size,
        "digest": hashlib.sha256(arrays + captions).hexdigest(),
        "bad": Counter(one.kind for one in walk.bad),
        "filtered": walk.filtered,
        "example": shown(walk.bad[0].sentence(place.url)) if walk.bad else "",
    }
    line = json.dumps(header).encode()
    assert len(line) < _HEADER
    return line.ljust(_HEADER - 1) + b"\n" + arrays + captions


def _header(path: Path) -> dict[str, Any] | None:
    """None: there is no index, or not a whole one."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            header, length = parse_object(content[:_HEADER], source=str(path)), len(content)
        whole = _HEADER + 12 * header["count"] * header["members"] + header["captions"]
        return header if header["version"] == VERSION and length == whole else None
    except (OSError, ValueError, KeyError, TypeError, UntrustedError):
        return None


def index_hash(entries: Sequence[Entry]) -> str:
    """Of what a position means: the shards in their order, and which samples of them are good."""
    content = [(Path(entry.place.url).name, entry.size, entry.count, entry.digest) for entry in entries]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
