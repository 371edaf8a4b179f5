"""The global order of samples: a pure function of (seed, position), the same at every world size.

In every epoch the shards are permuted, and `shuffle_shards` of them at a time have their samples permuted together.
Sample n goes to rank n mod world, so a position is one integer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Stretch(NamedTuple):
    """Samples of one rank, in order: their numbers n, the shards they lie in and their rows there."""

    n: Numbers
    shard: Numbers
    row: Numbers


@dataclass(frozen=True)
class Order:
    """
    Args:
        counts: good samples of each shard.
        run_length: so many neighbours in a shard stay together: 1 permutes samples, more spares slow disks seeks.
    """

    counts: Sequence[int]
    seed: int
    shuffle_shards: int
    run_length: int = 1

    @property
    def total(self) -> int:
        return sum(self.counts)

    def stretches(self, start: int, rank: int, world: int) -> Iterator[Stretch]:
        """This rank's samples from number `start` of the global order on, without end; a group of shards at a time."""
        epoch, skip = divmod(start, self.total)
        while True:
            random = np.random.default_rng([self.seed, epoch])
            shards = random.permutation(len(self.counts))
            first = epoch * self.total
            for at in range(0, len(shards), self.shuffle_shards):
                group = shards[at : at + self.shuffle_shards]
                count = sum(self.counts[shard] for shard in group)
                order = self._permuted(group, random)
                if skip < count:
                    own = np.arange(skip + (rank - first - skip) % world, count, world)
                    yield self._located(first, own, order[own], group)
                skip = max(0, skip - count)
                first += count
            epoch += 1

    def replacement(self, n: int, attempt: int) -> tuple[int, int]:
        """(shard, row) of the sample that takes the place of a bad one at n: drawn from (seed, epoch, n, attempt)."""
        drawn = np.random.default_rng([self.seed, n // self.total, n, attempt]).integers(self.total)
        bounds = np.cumsum(self.counts)
        shard = int(np.searchsorted(bounds, drawn, side="right"))
        return shard, int(drawn - (bounds[shard] - self.counts[shard]))

    def _permuted(self, group: Numbers, random: np.random.Generator) -> Numbers:
        """Positions in the group's shards laid end to end."""
        counts = [self.counts[shard] for shard in group]
        if self.run_length == 1:
            return random.permutation(sum(counts))
        ends = np.cumsum([0, *counts])
        runs = [np.arange(a, b, self.run_length) for a, b in pairwise(ends)]
        stops = [np.minimum(run + self.run_length, b) for run, b in zip(runs, ends[1:], strict=True)]
        begin, end = np.concatenate(runs), np.concatenate(stops)
        order = random.permutation(len(begin))
        lengths = (end - begin)[order]
        return np.repeat(begin[order] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())

    def _located(self, first: int, own: Numbers, positions: Numbers, group: Numbers) -> Stretch:
        bounds = np.cumsum([self.counts[shard] for shard in group])
        which = np.searchsorted(bounds, positions, side="right")
        row = positions - np.concatenate([[0], bounds[:-1]])[which]
        return Stretch(own + first, group[which], row)
