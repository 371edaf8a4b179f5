"""Indexes of all shards of a source: each rank walks its share of those that have none, then all read what is kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from torch import distributed as dist

from fpd_core.track import bars
from fpd_train.data.places import Place
from fpd_train.data.shard_index import Entry, Plan, build, entry
from fpd_train.ranks import together


def index_all(places: Sequence[Place], plan: Plan, *, rank: int, world: int, threads: int) -> list[Entry]:
    """The entries of all shards, in order.

    Collective where a process group of `world` ranks exists. What another node kept in a folder that this one does not
    see is walked again.

    Raises:
        DataError: on every rank, if any could not read a shard.
    """
    if world > 1 and dist.is_initialized() and dist.get_world_size() == world:
        together(lambda: _build(places[rank::world], plan, threads, shown=rank == 0))
    _build(places, plan, threads, shown=rank == 0)
    return [entry(place, plan) for place in places]


def _build(places: Sequence[Place], plan: Plan, threads: int, *, shown: bool) -> None:
    track = bars(Console(stderr=True, quiet=not shown))
    with track("indexing shards", len(places)) as advance, ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda place: build(place, plan), places):
            advance(1)
