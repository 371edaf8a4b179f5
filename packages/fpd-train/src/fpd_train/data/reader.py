"""Batches of samples that have an index: read by position and decoded in the background."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar, NamedTuple, Protocol

from fpd_core.untrusted import shown
from fpd_core.untrusted.tar_index import name_before
from fpd_train.batch import Batch
from fpd_train.data.ahead import Ahead
from fpd_train.data.bad_samples import BadSample, Tally
from fpd_train.data.grouping import split
from fpd_train.data.order import Order, Stretch
from fpd_train.data.shard_index import Entry, Positions, index_hash, positions
from fpd_train.data.storage import Stored, retried, stored
from fpd_train.errors import DataError

_OPEN = 64  # shards at a time
_DRAWS = 100  # for one bad sample


@dataclass(frozen=True)
class Reading:
    """Who reads, and how; see the fields of `Shards`."""

    batch_size: int
    rank: int
    world: int
    threads: int
    prefetch: int
    retries: int
    coalesce: int
    scattered: bool


class Decoder(Protocol):
    """What makes batches of members."""

    members: ClassVar[tuple[tuple[str, ...], ...]]

    def decode(self, members: Sequence[bytes]) -> Any: ...

    def collate(self, samples: list[Any]) -> Batch: ...

    @property
    def from_parquet(self) -> bool: ...


class Ticket(NamedTuple):
    """A sample to read: its number in the global order, and where its members lie."""

    n: int
    shard: int
    row: int
    offsets: list[int]
    sizes: list[int]


class IndexedStream:
    """Batches of one rank, without end.

    `tally` counts what is bad, `identity` says what positions mean, `order_total` is the samples of an epoch.
    """

    def __init__(
        self, source: Decoder, entries: Sequence[Entry], order: Order, reading: Reading, tally: Tally, *, position: int
    ) -> None:
        self.tally, self.identity, self.order_total = tally, index_hash(entries), order.total
        self._batches = Ahead(Reader(source, entries, order, reading, tally).batches(position), reading.prefetch)

    def __iter__(self) -> "IndexedStream":
        return self

    def __next__(self) -> Batch:
        return next(self._batches)


class Reader:
    """What the background does."""

    def __init__(self, source: Decoder, entries: Sequence[Entry], order: Order, reading: Reading, tally: Tally) -> None:
        self._source, self._entries, self._order, self._reading, self._tally = source, entries, order, reading, tally
        self._width = len(source.members)
        self._file = lru_cache(_OPEN)(self._open)
        self._positions = lru_cache(_OPEN)(self._load)

    def batches(self, position: int) -> Iterator[Batch]:
        tickets = self._tickets(position)
        size, threads = self._reading.batch_size, min(self._reading.threads, self._reading.batch_size)
        if threads == 1:
            while True:
                yield self._source.collate(self.samples(list(islice(tickets, size))))
        with ThreadPoolExecutor(threads) as pool:
            while True:
                wanted = list(islice(tickets, size))
                parts = pool.map(
                    self.samples, [wanted[size * i // threads : size * (i + 1) // threads] for i in range(threads)]
                )
                yield self._source.collate([sample for part in parts for sample in part])

    def samples(self, tickets: list[Ticket]) -> list[Any]:
        """Read and decode; what cannot be decoded is replaced."""
        decode, found = self._source.decode, []
        self._tally.read(len(tickets))
        for ticket, members in zip(tickets, self._members(tickets), strict=True):
            try:
                found.append(decode(members))
            except BadSample as error:
                found.append(self._replacement(ticket, error))
        return found

    def _replacement(self, bad: Ticket, error: BadSample) -> Any:
        n, ticket = bad.n, bad
        for attempt in range(_DRAWS):
            message = f"sample {shown(self._key(ticket))} of {shown(self._entries[ticket.shard].place.url)} {error}"
            self._tally.failed((ticket.shard, ticket.row), error.kind, message)
            shard, row = self._order.replacement(n, attempt)
            found = self._positions(shard)
            ticket = Ticket(n, shard, row, found.offsets[row].tolist(), found.sizes[row].tolist())
            try:
                return self._source.decode(next(self._members([ticket])))
            except BadSample as again:
                error = again
        raise DataError(f"{self._tally.folder}: {_DRAWS} samples in a row cannot be used; the last one: {message}")

    def _tickets(self, position: int) -> Iterator[Ticket]:
        for stretch in self._order.stretches(position, self._reading.rank, self._reading.world):
            yield from map(Ticket._make, zip(*self._located(stretch), strict=True))

    def _located(self, stretch: Stretch) -> tuple[list[Any], ...]:
        offsets = [[0] * self._width] * len(stretch.n)
        sizes = list(offsets)
        for shard in set(stretch.shard.tolist()):
            chosen = (stretch.shard == shard).nonzero()[0]
            found, rows = self._positions(shard), stretch.row[chosen]
            for place, where, length in zip(
                chosen.tolist(), found.offsets[rows].tolist(), found.sizes[rows].tolist(), strict=True
            ):
                offsets[place], sizes[place] = where, length
        return stretch.n.tolist(), stretch.shard.tolist(), stretch.row.tolist(), offsets, sizes

    def _members(self, tickets: Sequence[Ticket]) -> Iterator[list[bytes]]:
        """The members of each, read a shard at a time."""
        by_shard: dict[int, list[int]] = {}
        for place, ticket in enumerate(tickets):
            by_shard.setdefault(ticket.shard, []).append(place)
        found: list[list[bytes]] = [[]] * len(tickets)
        for shard, places in by_shard.items():
            starts = [offset for place in places for offset in tickets[place].offsets]
            lengths = [size for place in places for size in tickets[place].sizes]
            pieces = self._pieces(shard, starts, lengths)
            for number, place in enumerate(places):
                found[place] = pieces[number * self._width : (number + 1) * self._width]
        return iter(found)

    def _pieces(self, shard: int, starts: list[int], lengths: list[int]) -> list[bytes]:
        def read() -> list[bytes]:
            try:
                pieces = self._file(shard).ranges(starts, lengths, self._reading.coalesce)
                if list(map(len, pieces)) != lengths:
                    raise OSError("it is shorter than when it was indexed")
            except Exception:
                self._file.cache_clear()  # a stale handle of a network disk does not recover
                raise
            return pieces

        return retried(read, self._reading.retries, self._entries[shard].place.url)

    def _key(self, ticket: Ticket) -> str:
        """The key of a sample by the header before its first member; its row where there is none."""
        if self._source.from_parquet:
            return f"in row {ticket.row}"
        file = self._file(ticket.shard)
        return split(name_before(lambda at, size: file.ranges([at], [size])[0], ticket.offsets[0]))[0]

    def _open(self, shard: int) -> Stored:
        entry = self._entries[shard]
        return stored(
            str(entry.path) if self._source.from_parquet else entry.place.url, scattered=self._reading.scattered
        )

    def _load(self, shard: int) -> Positions:
        return positions(self._entries[shard], self._width)
