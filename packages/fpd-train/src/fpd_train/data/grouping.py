"""Members of a tar become samples by their names; a sample that lacks something is bad, of a kind."""

import re
from dataclasses import dataclass, field

from fpd_core.untrusted import shown
from fpd_core.untrusted.limits import CAPTION_BYTES, IMAGE_BYTES, JSON_BYTES
from fpd_core.untrusted.tar_index import Member
from fpd_train.data.bad_samples import DOT, LARGE, REPEATED, TRUNCATED

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
