"""A walk over one shard: which samples it holds, where their members lie, and which of them cannot be used."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fpd_core.untrusted import shown
from fpd_core.untrusted.limits import CAPTION_BYTES, IMAGE_BYTES, JSON_BYTES
from fpd_core.untrusted.tar_index import GZIP, Member, TarDamage, locate_members
from fpd_train.data import img2dataset
from fpd_train.data.bad_samples import DOT, LARGE, LOST, REPEATED, TRUNCATED
from fpd_train.data.filters import Filter, columns, json_record, wanted
from fpd_train.data.places import Place
from fpd_train.data.storage import stored
from fpd_train.errors import DataError

Wanted = tuple[tuple[str, ...], ...]
_NOTE = re.compile(r"(^|/)__[^/]*__($|/)")  # of webdataset about a shard


@dataclass(frozen=True)
class Bad:
    """A sample that is left out; `key` is empty where it is not known."""

    kind: str
    key: str = ""
    detail: str = ""

    def sentence(self, url: str) -> str:
        sample = f"sample {shown(self.key)} of " if self.key else ""
        return f"{sample}{shown(url)}: {self.kind}{f', {self.detail}' if self.detail else ''}"


@dataclass
class Walk:
    """Offsets and sizes of the members of good samples, in the order of the shard; `size` is the shard's in bytes."""

    size: int
    offsets: list[tuple[int, ...]] = field(default_factory=list)
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    filtered: int = 0


@dataclass
class Captions(Walk):
    """The same of captions that stand one after the other in `content`."""

    content: bytes = b""


@dataclass
class Sample:
    """Members of one key: the ones wanted, its json, the names that a dot in the key has cut."""

    members: list[Member | None]
    ranks: list[int]
    json: Member | None = None
    txt: Member | None = None
    cut: set[str] = field(default_factory=set)
    repeated: bool = False


def split(name: str) -> tuple[str, str]:
    """Key and ending: before and after the first dot of the last part, as webdataset cuts. No key: not of a sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    if not (stem and dot) or _NOTE.search(name):
        return "", ""
    return folder + slash + stem, ending.lower()


def limit_of(ending: str) -> tuple[int, str]:
    """How many bytes a member may have, and what that limit is called."""
    if ending == "json":
        return JSON_BYTES, "JSON_BYTES"
    return (CAPTION_BYTES, "CAPTION_BYTES") if ending == "txt" else (IMAGE_BYTES, "IMAGE_BYTES")


class Grouping:
    """Members become samples by their key, wherever in the shard they stand."""

    def __init__(self, wanted: Wanted) -> None:
        self.samples: dict[str, Sample] = {}
        self._wanted = wanted
        self._slots = {ending: (slot, rank) for slot, group in enumerate(wanted) for rank, ending in enumerate(group)}

    def add(self, member: Member) -> None:
        key, ending = split(member.name)
        if not key:
            return
        sample = self.samples.get(key)
        if sample is None:
            sample = self.samples[key] = Sample([None] * len(self._wanted), [len(self._slots)] * len(self._wanted))
        if ending == "txt":
            sample.txt = member
        if ending in self._slots:
            slot, rank = self._slots[ending]
            sample.repeated |= sample.ranks[slot] == rank
            if rank < sample.ranks[slot]:
                sample.members[slot], sample.ranks[slot] = member, rank
        elif ending == "json":
            sample.json = member
        elif ending.rpartition(".")[2] in self._slots:
            sample.cut.add(member.name.rpartition(".")[0])

    def problems(self, key: str, *, last_of_broken: bool = False) -> list[Bad]:
        """Why a sample cannot be used, once for each sample that shares its key; nothing if it can."""
        sample = self.samples[key]
        if sample.repeated:
            return [Bad(REPEATED, key)]
        for member, group in zip(sample.members, self._wanted, strict=True):
            name = "/".join(group)
            if member is None and sample.cut:
                return [Bad(DOT, cut) for cut in sorted(sample.cut)]
            if member is None:
                return [Bad(TRUNCATED if last_of_broken else f"missing {name}", key)]
            if member.size == 0:
                return [Bad(f"empty {name}", key)]
            limit, called = limit_of(group[0])
            if member.size > limit:
                return [Bad(LARGE, key, f"{name} has more than {limit} bytes ({called})")]
        return []


def walk_tar(place: Place, wanted: Wanted, filters: Sequence[Filter]) -> Walk:
    """Walk the headers of a tar. A broken one gives the samples before the break.

    Raises:
        DataError: the tar is compressed, or holds more samples than `sizes.json` says.
    """
    file = stored(place.url)
    size, read_at = file.stamp()[0], file.walked()
    if read_at(0, len(GZIP)) == GZIP:
        raise DataError(
            f"{shown(place.url)} is compressed, so its samples have no places; unpack it, or add 'sequential' to allow"
        )
    grouping = Grouping(wanted)
    damage = _gather(grouping, locate_members(read_at), size)
    walk = Walk(size)
    keys = list(grouping.samples)
    good = []
    for key in keys:
        problems = grouping.problems(key, last_of_broken=damage is not None and key == keys[-1])
        walk.bad += problems
        if not problems:
            good.append(key)
    _account(walk, place, len(good), damage)
    keeps = _judge(place, filters, grouping, lambda member: file.ranges([member.offset], [member.size])[0])
    for key in good:
        if filters and not keeps(key):
            walk.filtered += 1
            continue
        members = [member for member in grouping.samples[key].members if member is not None]
        walk.offsets.append(tuple(member.offset for member in members))
        walk.sizes.append(tuple(member.size for member in members))
    return walk


def _gather(grouping: Grouping, members: Iterable[Member], size: int) -> str | None:
    """Sort members into samples; returns what is wrong with the tar, if anything."""
    try:
        for member in members:
            if member.offset + member.size > size:
                return f"the tar ends within {shown(member.name)}"
            grouping.add(member)
    except TarDamage as error:
        return f"the tar {error}"
    return None


def _account(walk: Walk, place: Place, good: int, damage: str | None) -> None:
    """Add what the shard should hold and does not."""
    source, expected = "sizes.json", place.expected
    known = good + len(walk.bad)
    if expected is None:
        source, expected = "_stats.json", img2dataset.successes(place.url)
    elif known > expected:
        raise DataError(f"shard {shown(place.url)} holds more than {expected} samples, {source} says {expected}")
    lost = max(0, expected - known) if expected is not None else 0
    if damage and not lost and not any(bad.kind == TRUNCATED for bad in walk.bad):
        lost = 0 if expected is not None and known >= expected else 1
    detail = damage or f"shard holds {known} samples, {source} says {expected}"
    walk.bad += [Bad(TRUNCATED if damage else LOST, detail=detail)] * lost


def _judge(
    place: Place, filters: Sequence[Filter], grouping: Grouping, read: Callable[[Member], bytes]
) -> Callable[[str], bool]:
    """Whether filters keep the sample of a key, by the parquet if that has all their columns, else by its json."""
    rows = img2dataset.rows(place.url, columns(filters)) if filters else None
    if rows is not None:
        by_key: dict[str, Any] = {row["key"]: row for row in rows}
        return lambda key: wanted(filters, by_key.get(key.rpartition("/")[2]))

    def keeps(key: str) -> bool:
        sample = grouping.samples[key]
        member = sample.json
        if member is None and sample.txt is not None and columns(filters) == ["caption"]:
            return wanted(filters, {"caption": str(read(sample.txt), "utf-8", "replace")})
        return member is not None and member.size <= JSON_BYTES and wanted(filters, json_record(read(member)))

    return keeps


def walk_parquet(place: Place, filters: Sequence[Filter]) -> Captions:
    """The captions of a shard by its parquet; the tar is not opened.

    Raises:
        DataError: there is no parquet with a column `caption`, or no pyarrow to read it.
    """
    path = img2dataset.beside(place.url, ".parquet")
    rows = img2dataset.rows(place.url, ["caption", *columns(filters)])
    if rows is None:
        raise DataError(
            f"{shown(path)} with columns key and caption is needed where captions come from parquet, "
            "and the package pyarrow (pip install 'fpd-train[parquet]')"
        )
    walk, content = Captions(0), bytearray()
    for row in rows:
        caption = (row["caption"] or "").encode()
        if not caption:
            walk.bad.append(Bad("empty txt", str(row["key"])))
        elif not wanted(filters, row):
            walk.filtered += 1
        else:
            walk.offsets.append((len(content),))
            walk.sizes.append((len(caption),))
            content += caption
    walk.content, walk.size = bytes(content), len(content)
    return walk
