"""WebDataset shards, read in an order that is a pure function of (seed, position): each rank only its own samples."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from fpd_core.config import Config, Location, Share, Size, Whole
from fpd_train.batch import Batch
from fpd_train.data.bad_samples import Tally
from fpd_train.data.filters import Filter
from fpd_train.data.indexing import index_all
from fpd_train.data.lanes import LaneStream, is_sequential
from fpd_train.data.order import Order
from fpd_train.data.places import Place, Scheme, check_schemes, find_shards, is_local, parts, scheme_of
from fpd_train.data.reader import IndexedStream, Reading
from fpd_train.data.shard_index import Entry, Plan, default_folder
from fpd_train.errors import DataError

# Settings of a source that change no sample and no order.
OPERATIONAL = ("index_folder", "threads", "prefetch", "retries", "coalesce_bytes")


def _as_text(folder: Any) -> Any:
    """Local paths in their plain form, `data/shards` for `data/shards/`; URLs as they are."""
    if isinstance(folder, Path):
        plain = str(folder)
        return plain if is_local(plain) else f"./{plain}"
    if not isinstance(folder, str) or not folder:
        return folder
    return "::".join(part if not part or scheme_of(part) else _plain(part) for part in parts(folder))


def _plain(part: str) -> str:
    plain = str(Path(part))
    return plain if scheme_of(plain) is None else f"./{plain}"


class Shards(Config, ABC):
    """`.tar` shards somewhere; sources say what a sample holds."""

    members: ClassVar[tuple[tuple[str, ...], ...]]  # of a sample, each by the endings it may have
    busy: ClassVar[bool] = False  # decoding takes more than reading

    folder: Annotated[
        str, BeforeValidator(_as_text), StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")
    ] = Field(
        description="Folder of shards; or a pattern with {00..99} or *, a text file that lists shards, several of them "
        "joined by `::`; or URLs and commands, where `allow` names the scheme."
    )
    allow: tuple[Scheme | Literal["sequential"], ...] = Field(
        (),
        max_length=6,
        description="Schemes `folder` may have; `pipe` runs commands. `sequential` reads what cannot seek (compressed "
        "shards, servers without ranges) from end to end, through lanes.",
    )
    shuffle_shards: Size = Field(4, description="Shards whose samples are permuted together.")
    run_length: Size = Field(1, description="Neighbours that stay together, for disks that seek slowly: 64 or more.")
    filters: tuple[Filter, ...] = Field((), max_length=64, description="What samples must satisfy, by json or parquet.")
    max_bad_share: Share = Field(0.1, description="Of damaged samples; more end the run.")
    index_folder: Location | None = Field(
        None, description="Where the places of samples are kept; by default `fpd/shards` in the user's cache folder."
    )
    retries: Annotated[Whole, Field(ge=0, le=100)] = Field(3, description="Of a source that fails.")
    coalesce_bytes: Annotated[Whole, Field(ge=0, le=2**30)] = Field(
        0, description="Remote: gaps between samples that are read along to save a request."
    )
    threads: Size | None = Field(
        None,
        description="That read and decode; by default 8 for URLs, up to 4 for images, 1 for captions.",
    )
    prefetch: Size = Field(4, description="Batches prepared ahead.")
    lanes: Annotated[Whole, Field(ge=1, le=64)] | None = Field(
        None,
        description="Streams read side by side where nothing can seek, a multiple of the ranks; by default the largest "
        "power of two that is at most 64 and at most the number of shards.",
    )

    @model_validator(mode="after")
    def _scheme_is_allowed(self) -> Self:
        check_schemes(self.folder, self.allow)
        return self

    @abstractmethod
    def decode(self, members: Sequence[bytes]) -> Any:
        """One sample of its `members`. Raises BadSample. Called from several threads."""

    @abstractmethod
    def collate(self, samples: list[Any]) -> Batch:
        """Decoded samples as a micro-batch."""

    @property
    def from_parquet(self) -> bool:
        """Whether the members stand in img2dataset's parquet, so that no tar is opened."""
        return False

    def shards(self) -> list[Place]:
        """The shards that `folder` names. Raises DataError: none, or one is missing."""
        return find_shards(self.folder, self.allow)

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> "IndexedStream | LaneStream":
        """Batches from number `start` on. Raises DataError: a shard cannot be read, too much of it is bad."""
        return self.stream(batch_size, seed=seed, rank=rank, world=world, position=start * batch_size * world)

    def stream(
        self, batch_size: int, *, seed: int, rank: int, world: int, position: int
    ) -> "IndexedStream | LaneStream":
        """Batches from sample `position` of the global order on, whatever ranks and batches came before.

        Collective where a process group of `world` ranks exists: each walks its share of shards without an index.
        """
        local = is_local(self.folder)
        reading = Reading(
            batch_size=batch_size,
            rank=rank,
            world=world,
            threads=self.threads or (8 if not local else min(4, len(os.sched_getaffinity(0))) if self.busy else 1),
            prefetch=self.prefetch,
            retries=self.retries,
            coalesce=self.coalesce_bytes,
            scattered=self.run_length == 1,
        )
        if is_sequential(self.folder, self.allow):
            tally = Tally(self.folder, self.max_bad_share)
            return LaneStream(
                self, self.shards(), self._plan(), reading, tally, seed=seed, position=position, lanes=self.lanes
            )
        entries, tally = self.indexed(rank=rank, world=world)
        order = Order([entry.count for entry in entries], seed, self.shuffle_shards, self.run_length)
        if order.total < batch_size * world:
            raise DataError(f"{self.folder} holds {order.total} samples, one global batch needs {batch_size * world}")
        return IndexedStream(self, entries, order, reading, tally, position=position)

    def indexed(self, *, rank: int = 0, world: int = 1) -> tuple[list[Entry], Tally]:
        """The shards, walked where they have no index yet, and what was bad in them; collective as `stream`.

        Raises:
            DataError: a shard cannot be read, or too much of them is bad.
        """
        threads = 1 if is_local(self.folder) else 8
        entries = index_all(self.shards(), self._plan(), rank=rank, world=world, threads=threads)
        tally = Tally(self.folder, self.max_bad_share)
        for entry in entries:
            tally.walked(entry.count, entry.bad, entry.filtered, entry.example)
        tally.check_walk()
        return entries, tally

    def _plan(self) -> Plan:
        folder = self.index_folder or default_folder()
        return Plan(self.members, self.filters, self.from_parquet, self.retries, folder)
