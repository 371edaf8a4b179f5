"""Samples that cannot be used: told apart by kind, counted, logged once each, and too many of them end the run."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from fpd_train.errors import DataError

LOG = logging.getLogger("fpd_train.data")
_JUDGED_FROM = 1000  # reads before the share of bad ones among them means anything

# What the walk over a shard sees. What fails on reading names its kind where it is raised.
TRUNCATED, LOST, DOT, REPEATED, LARGE = "truncated tar", "lost sample", "dot in the key", "repeated member", "too large"


class BadSample(DataError):
    """One sample cannot be used; the message is the rest of a sentence that begins with its place."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


@dataclass
class Tally:
    """What a stream left out. `total` counts the samples that the shards hold, good or bad."""

    folder: str
    max_share: float
    total: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # before the order was made
    filtered: int = 0
    example: str = ""
    seen: dict[tuple[object, object], str] = field(default_factory=dict)  # on reading: sample -> kind
    _reads: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def walked(self, kept: int, bad: Mapping[str, int], filtered: int, example: str) -> None:
        """A shard as its index describes it."""
        self.total += kept + filtered + sum(bad.values())
        self.filtered += filtered
        self.left_out.update(bad)
        self.example = self.example or example

    def check_walk(self) -> None:
        """Raises DataError: more of the samples are bad than may be."""
        bad = self.left_out.total()
        if bad > self.max_share * self.total:
            raise DataError(self._too_many(bad, self.total, self.left_out))

    def read(self, count: int) -> None:
        """So many samples were read and decoded, or tried."""
        with self._lock:
            self._reads += count

    def failed(self, sample: tuple[object, object], kind: str, message: str) -> None:
        """A sample failed on reading. Raises DataError: too many did."""
        with self._lock:
            if sample in self.seen:
                return
            self.seen[sample] = kind
            self.example = message
            LOG.warning("%s", message)
            total = self.total or max(self._reads, _JUDGED_FROM)  # unknown where shards are read through lanes
            judged = max(min(total, _JUDGED_FROM), min(self._reads, total))
            if len(self.seen) > self.max_share * judged:
                raise DataError(self._too_many(len(self.seen), judged, Counter(self.seen.values())))

    def report(self) -> list[str]:
        """A line for what was left out, and one for what was bad on reading; none for what did not happen."""
        out = Counter(self.left_out)
        if self.filtered:
            out["filtered"] = self.filtered
        bad = Counter(self.seen.values())
        lines = []
        if out:
            lines.append(f"{self.folder}: {out.total()} of {self.total} samples left out ({_listed(out)})")
        if bad:
            lines.append(f"{self.folder}: {bad.total()} samples bad on reading, others came instead ({_listed(bad)})")
        return lines

    def _too_many(self, bad: int, total: int, kinds: Counter[str]) -> str:
        return (
            f"{self.example}; {self.folder} has {bad} bad samples of {total} ({_listed(kinds)}), "
            f"more than data.max_bad_share {self.max_share:g}"
        )


def _listed(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda one: (-one[1], one[0])))
