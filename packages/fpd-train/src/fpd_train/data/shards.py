"""WebDataset shards, read in an order that is a pure function of (seed, epoch).

A resumed run skips whole shards by the counts in `sizes.json` and continues with the very next sample, at any world
size. Samples are shuffled as raw bytes and decoded last, so the buffer stays small.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from webdataset.tariterators import group_by_keys

from fpd_core.config import Config, Size
from fpd_core.untrusted import parse_object, shown
from fpd_core.untrusted.archives import Readable, tar_members
from fpd_core.untrusted.limits import JSON_BYTES
from fpd_train.batch import Batch
from fpd_train.data.shard_folder import Scheme, check_name, check_scheme, opened, scheme_of
from fpd_train.errors import DataError

SIZES = "sizes.json"
SAMPLES = 10**9  # of one shard, at most
_META = re.compile(r"__[^/]*__($|/)")  # notes of webdataset, no samples


def place(sample: dict[str, Any]) -> str:
    """Where a sample lies, for error messages."""
    return f"sample {shown(sample['__key__'])} of {sample['__url__']}"


def _as_text(folder: Any) -> Any:
    """A local path in its plain form, `data/shards` for `data/shards/`; a URL as it is."""
    if not isinstance(folder, Path | str) or not str(folder) or (isinstance(folder, str) and scheme_of(folder)):
        return folder
    plain = str(Path(folder))
    return plain if scheme_of(plain) is None else f"./{plain}"


class Shards(Config, ABC):
    """A folder of `.tar` shards with `sizes.json`; sources say what a sample holds."""

    folder: Annotated[
        str, BeforeValidator(_as_text), StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")
    ] = Field(description="Folder written by `fpd-train shards`; or its URL, where `allow` names the scheme.")
    allow: tuple[Scheme, ...] = Field(
        (), max_length=4, description="Schemes `folder` may have; `pipe` runs a command, to which `/name` is appended."
    )
    shuffle_shards: Size = Field(4, description="Shards shuffled together: raw bytes held in memory per rank.")

    @model_validator(mode="after")
    def _scheme_is_allowed(self) -> Self:
        check_scheme(self.folder, self.allow)
        return self

    @abstractmethod
    def batch(self, samples: list[dict[str, Any]]) -> Batch:
        """Decode the samples of one micro-batch. Raises DataError: names the damaged sample."""

    def sizes(self) -> dict[str, int]:
        """Samples per shard, in name order.

        Raises:
            DataError: `sizes.json` or a listed shard is missing, or it says something else than names and counts.
        """
        listed = f"{self.folder}/{SIZES}"
        if scheme_of(self.folder) is None and not Path(listed).exists():
            raise DataError(f"{listed} does not exist; write shards with `fpd-train shards --help`")
        with opened(self.folder, SIZES) as stream:
            content = _whole(stream, listed)
        sizes = parse_object(content, source=listed, error=DataError)
        if not sizes:
            raise DataError(f"{listed} lists no shard; write the shards again with `fpd-train shards`")
        for name, count in sizes.items():
            check_name(name, listed)
            if type(count) is not int or not 1 <= count <= SAMPLES:
                raise DataError(
                    f"{listed} gives {name} the size {shown(repr(count))}; a size is a whole number from 1 to {SAMPLES}"
                )
            if scheme_of(self.folder) is None and not (Path(self.folder) / name).is_file():
                raise DataError(
                    f"shard {name} is listed in {listed} but missing; write the shards again with `fpd-train shards`"
                )
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
        source = f"{self.folder}/{name}"
        with opened(self.folder, name) as stream:
            members = (
                {"fname": member, "data": data, "__url__": source}
                for member, data in tar_members(stream, source=f"shard {source}", error=DataError)
                if not _META.match(member)
            )
            try:
                samples = list(islice(group_by_keys(members), expected + 1))
            except DataError:
                raise
            except ValueError as error:  # a member given twice; webdataset adds to the arguments
                raise DataError(f"shard {source} cannot be read: {shown(error.args[0])}") from None
        if len(samples) != expected:
            count = f"more than {expected}" if len(samples) > expected else str(len(samples))
            raise DataError(f"shard {source} holds {count} samples, {SIZES} says {expected}: damaged or incomplete")
        return samples


def _whole(stream: Readable, source: str) -> bytes:
    content = b""
    while (block := stream.read(JSON_BYTES + 1 - len(content))) and len(content) <= JSON_BYTES:
        content += block
    if len(content) > JSON_BYTES:
        raise DataError(f"{source} has more than {JSON_BYTES} bytes (JSON_BYTES)")
    return content
