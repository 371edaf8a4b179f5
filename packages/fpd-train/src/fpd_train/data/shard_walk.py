"""A walk over one shard: which samples it holds, where their members lie, and which of them cannot be used."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fpd_core.untrusted import shown
from fpd_core.untrusted.limits import JSON_BYTES
from fpd_core.untrusted.tar_index import GZIP, Member, TarDamage, locate_members
from fpd_train.data import img2dataset
from fpd_train.data.bad_samples import LOST, TRUNCATED
from fpd_train.data.filters import Filter, columns, json_record, wanted
from fpd_train.data.grouping import Bad, Grouping, Wanted
from fpd_train.data.places import Place
from fpd_train.data.storage import stored
from fpd_train.errors import DataError


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
