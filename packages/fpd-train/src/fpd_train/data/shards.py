"""WebDataset shards, read in an order that is a pure function of (seed, epoch).

A resumed run skips whole shards by the counts in `sizes.json` and continues with the very next sample, at any world
size. Samples are shuffled as raw bytes and decoded last, so the buffer stays small.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from pydantic import Field

from fpd_core.config import Config, Size
from fpd_train.batch import Batch
from fpd_train.errors import DataError

SIZES = "sizes.json"


def place(sample: dict[str, Any]) -> str:
    """Where a sample lies, for error messages."""
    return f"sample {sample['__key__']} of {sample['__url__']}"


class Shards(Config, ABC):
    """A folder of `.tar` shards with `sizes.json`; sources say what a sample holds."""

    folder: Path = Field(description="Folder written by `fpd-train shards`.")
    shuffle_shards: Size = Field(4, description="Shards shuffled together: raw bytes held in memory per rank.")

    @abstractmethod
    def batch(self, samples: list[dict[str, Any]]) -> Batch:
        """Decode the samples of one micro-batch. Raises DataError: names the damaged sample."""

    def sizes(self) -> dict[str, int]:
        """Samples per shard, in name order.

        Raises:
            DataError: the folder, `sizes.json` or a listed shard is missing.
        """
        path = self.folder / SIZES
        try:
            sizes: dict[str, int] = json.loads(path.read_text())
        except FileNotFoundError:
            raise DataError(f"{path} does not exist; write shards with `fpd-train shards --help`") from None
        except json.JSONDecodeError as error:
            raise DataError(f"{path} is not valid JSON: {error}") from None
        missing = [name for name in sizes if not (self.folder / name).is_file()]
        if missing or not sizes:
            what = f"shard {missing[0]} is listed in {path} but missing" if missing else f"{path} lists no shard"
            raise DataError(f"{what}; write the shards again with `fpd-train shards`")
        return dict(sorted(sizes.items()))

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        sizes = self.sizes()
        if sum(sizes.values()) < batch_size * world:
            raise DataError(
                f"{self.folder} holds {sum(sizes.values())} samples, one global batch needs {batch_size * world}"
            )
        return self._batches(sizes, batch_size, seed, rank, world, start)

    def _batches(
        self, sizes: dict[str, int], batch_size: int, seed: int, rank: int, world: int, start: int
    ) -> Iterator[Batch]:
        samples = self._samples(sizes, seed, start * batch_size * world)
        while True:
            group = [next(samples) for _ in range(batch_size * world)][rank::world]
            yield self.batch(group)

    def _samples(self, sizes: dict[str, int], seed: int, skip: int) -> Iterator[dict[str, Any]]:
        total = sum(sizes.values())
        epoch, skip = divmod(skip, total)
        while True:
            rng = np.random.default_rng([seed, epoch])
            names = list(rng.permutation(list(sizes)))
            for first in range(0, len(names), self.shuffle_shards):
                group = names[first : first + self.shuffle_shards]
                count = sum(sizes[name] for name in group)
                order = rng.permutation(count)
                if skip >= count:
                    skip -= count
                    continue
                raw = [sample for name in group for sample in self._read(name, sizes[name])]
                yield from (raw[i] for i in order[skip:])
                skip = 0
            epoch += 1

    def _read(self, name: str, expected: int) -> list[dict[str, Any]]:
        path = self.folder / name
        try:
            pipeline = wds.DataPipeline(wds.SimpleShardList([str(path)]), wds.tarfile_to_samples())
            samples = list(pipeline)
        except Exception as error:  # webdataset re-raises tar, IO and zlib errors in many types
            raise DataError(f"shard {path} cannot be read: {error}") from None
        if len(samples) != expected:
            raise DataError(
                f"shard {path} holds {len(samples)} samples, {SIZES} says {expected}: damaged or incomplete"
            )
        return samples
