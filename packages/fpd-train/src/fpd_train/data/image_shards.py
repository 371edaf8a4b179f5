"""WebDataset shards of labelled images, read in an order that is a pure function of (seed, epoch).

A resumed run skips whole shards by the counts in `sizes.json` and continues with the very next sample, at any world
size. Images are shuffled as raw bytes and decoded last, so the buffer stays small.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import webdataset as wds
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import ClassCondition
from fpd_core.config import Config
from fpd_train.batch import Batch
from fpd_train.errors import DataError

SIZES = "sizes.json"
IMAGE_KEYS = ("png", "jpg", "jpeg", "webp")


class ImageShards(Config):
    """A folder of `.tar` shards with `sizes.json`; each sample has an image and a `.cls` label."""

    name: Literal["image_shards"] = "image_shards"
    folder: Path = Field(description="Folder written by `fpd-train shards`.")
    num_classes: int = Field(gt=0, description="Labels must lie in [0, num_classes).")
    image_size: int = Field(gt=0, description="Side of the square images; others are refused.")
    shuffle_shards: int = Field(4, gt=0, description="Shards shuffled together: raw bytes held in memory per rank.")

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
            images = torch.stack([self._image(sample) for sample in group])
            labels = torch.tensor([self._label(sample) for sample in group])
            yield Batch(ClassCondition(labels), images)

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

    def _image(self, sample: dict[str, Any]) -> Tensor:
        where = f"sample {sample['__key__']} of {sample['__url__']}"
        data = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
        if data is None:
            raise DataError(f"{where} has no image ({', '.join(IMAGE_KEYS)}); a dot in the key changes the extension")
        try:
            image = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{where}: image cannot be decoded: {error}") from None
        if image.shape[:2] != (self.image_size, self.image_size):
            raise DataError(
                f"{where} is {image.shape[1]}x{image.shape[0]}, the config says {self.image_size} pixels a side"
            )
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255

    def _label(self, sample: dict[str, Any]) -> int:
        where = f"sample {sample['__key__']} of {sample['__url__']}"
        try:
            label = int(sample["cls"])
        except (KeyError, ValueError):
            raise DataError(f"{where} has no integer label (.cls)") from None
        if not 0 <= label < self.num_classes:
            raise DataError(f"{where} has label {label}, the config allows 0 to {self.num_classes - 1}")
        return label
