"""Batches from shards that cannot seek: up to 64 of them are read side by side, from end to end.

Lane l of L has the shards l, l + L, l + 2L ... in an order drawn for every epoch of its own; sample n is the next one
of lane n mod L. So the order is again a function of (seed, position), and any number of ranks that divides L shares it.
Within a shard samples keep their order. A lane with fewer samples repeats sooner.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from fpd_core import atomic
from fpd_core.untrusted import UntrustedError, read_json, shown
from fpd_train.batch import Batch
from fpd_train.data import storage
from fpd_train.data.ahead import Ahead
from fpd_train.data.bad_samples import BadSample, Tally
from fpd_train.data.places import Place, parts, scheme_of
from fpd_train.data.reader import Decoder, Reading
from fpd_train.data.sequential import Found, samples
from fpd_train.data.shard_index import Plan
from fpd_train.errors import DataError

MOST = 64


def is_sequential(folder: str, allow: Sequence[str]) -> bool:
    """Whether a source is read through lanes: it runs a command, or the config says so by name."""
    return "sequential" in allow or any(scheme_of(part) == "pipe" for part in parts(folder))


class LaneStream:
    """Batches of one rank, without end. `tally` counts what is bad, `identity` says what positions mean."""

    def __init__(
        self,
        source: Decoder,
        places: Sequence[Place],
        plan: Plan,
        reading: Reading,
        tally: Tally,
        *,
        seed: int,
        position: int,
        lanes: int | None,
    ) -> None:
        count = lanes or 2 ** (min(MOST, len(places)).bit_length() - 1)
        if count > len(places):
            raise DataError(f"{tally.folder} has {len(places)} shards, too few for {count} lanes; lower data.lanes")
        if count % reading.world:
            raise DataError(
                f"{reading.world} ranks cannot share {count} lanes; set data.lanes to a multiple of {reading.world}, "
                f"at most {min(MOST, len(places))}"
            )
        self.tally = tally
        self.identity = hashlib.sha256(json.dumps([count, [place.url for place in places]]).encode()).hexdigest()
        first = position + (reading.rank - position) % reading.world
        numbers = [(first + step * reading.world) % count for step in range(count // reading.world)]
        own = [
            Lane(source, list(places[lane::count]), plan, reading.retries, tally, [seed, lane]).samples(
                max(0, -(-(position - lane) // count))
            )
            for lane in numbers
        ]
        self._batches = Ahead(_batches(source, own, reading), reading.prefetch)

    def __iter__(self) -> "LaneStream":
        return self

    def __next__(self) -> Batch:
        return next(self._batches)


def _batches(source: Decoder, lanes: list[Iterator[Any]], reading: Reading) -> Iterator[Batch]:
    turns = cycle(range(len(lanes)))
    with ThreadPoolExecutor(max(1, min(reading.threads, len(lanes)))) as pool:
        while True:
            wanted = [next(turns) for _ in range(reading.batch_size)]
            drawn = pool.map(_draw, lanes, [wanted.count(lane) for lane in range(len(lanes))])
            ready = [iter(samples) for samples in drawn]
            yield source.collate([next(ready[lane]) for lane in wanted])


def _draw(lane: Iterator[Any], count: int) -> list[Any]:
    return list(islice(lane, count))


class Lane:
    """The good samples of some shards, decoded, without end."""

    def __init__(
        self, source: Decoder, places: list[Place], plan: Plan, retries: int, tally: Tally, seed: list[int]
    ) -> None:
        self._source, self._places, self._plan, self._retries = source, places, plan, retries
        self._tally, self._seed = tally, seed

    def samples(self, skip: int) -> Iterator[Any]:
        """From the good sample number `skip` on. Shards that were once read to their end are skipped unread."""
        epoch = 0
        while True:
            before = skip
            given = 0
            for index in np.random.default_rng([*self._seed, epoch]).permutation(len(self._places)):
                place, count = self._places[index], 0
                known = _known(place, self._plan)
                if known is not None and known <= skip:
                    skip -= known
                    given += known
                    continue
                for sample in self._decoded(place):
                    count += 1
                    if skip:
                        skip -= 1
                    else:
                        yield sample
                given += count
                if known != count:
                    _remember(place, self._plan, count)
            if not given and before == skip:
                raise DataError(
                    f"{shown(self._places[0].url)} and the shards of its lane hold no sample that can be used"
                )
            epoch += 1

    def _decoded(self, place: Place) -> Iterator[Any]:
        for found in self._retried(place):
            for bad in found.bad:
                self._tally.failed((place.url, bad.key or found.key), bad.kind, bad.sentence(place.url))
            if found.members is None:
                continue
            self._tally.read(1)
            try:
                sample = self._source.decode(found.members)
            except BadSample as error:
                message = f"sample {shown(found.key)} of {shown(place.url)} {error}"
                self._tally.failed((place.url, found.key), error.kind, message)
                continue
            yield sample

    def _retried(self, place: Place) -> Iterator[Found]:
        """The samples of a shard; a source that fails is read anew, without those that it has given."""
        given, attempt = 0, 0
        while True:
            try:
                for number, found in enumerate(samples(place.url, self._plan)):
                    if number >= given:
                        given += 1
                        yield found
                return
            except (DataError, MemoryError):
                raise
            except Exception as error:  # of the operating system, or any of obstore's
                if attempt == self._retries:
                    raise DataError(
                        f"{shown(place.url)} cannot be read ({attempt + 1} tries): {storage.reason(error)}"
                    ) from None
            time.sleep(storage.FIRST_WAIT_SECONDS * 2**attempt)
            attempt += 1


def _count_file(place: Place, plan: Plan) -> Path:
    filters = [one.model_dump() for one in plan.filters]
    key = json.dumps([place.url, plan.wanted, filters])
    return plan.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.count"


def _known(place: Place, plan: Plan) -> int | None:
    """Good samples of a shard that was read to its end before."""
    try:
        count = read_json(_count_file(place, plan)).get("count")
    except UntrustedError:
        return None
    return count if type(count) is int and count >= 0 else None


def _remember(place: Place, plan: Plan, count: int) -> None:
    path = _count_file(place, plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, json.dumps({"count": count}) + "\n")
