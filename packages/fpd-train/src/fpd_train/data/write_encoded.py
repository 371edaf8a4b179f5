"""Captions of shards through a text tower, once: a shard of features for each shard, with as many samples in its order.

So a run on the features sees, at every position, the caption that a run on the captions sees there.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import webdataset as wds

from fpd_core import atomic
from fpd_core.teachers.text_conditional import TextConditionalTeacher
from fpd_core.untrusted import shown
from fpd_core.untrusted.tar_index import name_before
from fpd_train.data.bad_samples import BadSample, Tally
from fpd_train.data.caption_shards import CaptionShards, decoded_caption
from fpd_train.data.encoded_shards import MEMBER, SETTINGS, packed
from fpd_train.data.grouping import split
from fpd_train.data.image_shards import CaptionedImageShards
from fpd_train.data.lanes import is_sequential
from fpd_train.data.places import Place
from fpd_train.data.resumable import begin, finish
from fpd_train.data.shard_index import Entry, positions
from fpd_train.data.shard_walk import walk_tar
from fpd_train.data.shards import OPERATIONAL
from fpd_train.data.storage import Stored, retried, stored
from fpd_train.errors import DataError

Source = CaptionShards | CaptionedImageShards
_TOGETHER = 64  # samples in one request
_LEFT = ("shuffle_shards", "run_length", "max_bad_share", "lanes", *OPERATIONAL)  # settings that choose no sample


def require_positions(source: Source) -> None:
    """Raises DataError: the source is read from end to end, so that its samples have no places."""
    if is_sequential(source.folder, source.allow):
        raise DataError(f"{source.folder} is read from end to end; `fpd-train encode` reads shards by position")


def write_encoded(
    source: Source, teacher: TextConditionalTeacher, folder: Path, entries: Sequence[Entry], tally: Tally
) -> Iterator[tuple[int, bool]]:
    """Write the shards that are missing, then `sizes.json`, without which the folder cannot be read.

    Captions are read one by one, since kernels may round a caption differently in other company.

    Args:
        entries, tally: `source.indexed()`.

    Yields:
        (samples done, whether they were encoded now): of a shard that was there all at once, else one by one.

    Raises:
        DataError: a shard cannot be read, too much is bad, or the folder holds something else.
    """
    chosen = source.model_dump(mode="json", exclude=set(_LEFT))
    begin(folder, SETTINGS, {"tower": teacher.tower, "data": chosen}, "features")
    sizes: dict[str, int] = {}
    for number, entry in enumerate(entries):
        path = folder / f"shard-{number:05d}.tar"
        if path.exists():
            yield entry.count, False
        else:
            for _ in _write(source, teacher, entry, path, tally):
                yield 1, True
        sizes[path.name] = len(walk_tar(Place(str(path)), ((MEMBER,),), ()).offsets)
    finish(folder, sizes)


def _write(source: Source, teacher: TextConditionalTeacher, entry: Entry, path: Path, tally: Tally) -> Iterator[None]:
    """One shard; yields after each caption."""
    with atomic.replacing(path) as partial, partial.open("wb") as file, wds.TarWriter(file) as writer:
        for row, members in enumerate(_members(source, entry)):
            tally.read(1)
            try:
                caption = decoded_caption(members["txt"])
            except BadSample as error:
                where = shown(entry.place.url)
                tally.failed((entry.place.url, row), error.kind, f"sample {row} of {where} {error}")
                continue
            features = packed(teacher.encode([caption]), teacher.tower)
            writer.write({"__key__": f"{row:08d}", **members, MEMBER: features})
            yield


def _members(source: Source, entry: Entry) -> Iterator[dict[str, Any]]:
    """Of each good sample, by their endings."""
    url = str(entry.path) if source.from_parquet else entry.place.url
    found, file = positions(entry, len(source.members)), stored(url, scattered=False)
    rows = zip(found.offsets.tolist(), found.sizes.tolist(), strict=True)
    while some := list(islice(rows, _TOGETHER)):
        starts, lengths = ([value for row in some for value in row[part]] for part in (0, 1))
        pieces = iter(retried(lambda s=starts, n=lengths: _ranges(file, s, n, source), source.retries, url))  # type: ignore[misc]
        for offsets, _ in some:
            names = [_ending(file, offset, group) for offset, group in zip(offsets, source.members, strict=True)]
            yield {name: next(pieces) for name in names}


def _ranges(file: Stored, starts: list[int], lengths: list[int], source: Source) -> list[bytes]:
    pieces = file.ranges(starts, lengths, source.coalesce_bytes)
    if list(map(len, pieces)) != lengths:
        raise OSError("it is shorter than when it was indexed")
    return pieces


def _ending(file: Stored, offset: int, group: tuple[str, ...]) -> str:
    """Which of the endings a member has; the header before it says so."""
    if len(group) == 1:
        return group[0]
    return split(name_before(lambda at, size: file.ranges([at], [size])[0], offset))[1]
