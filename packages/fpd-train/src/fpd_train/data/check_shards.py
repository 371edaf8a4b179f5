"""A look at every sample of some shards: how many, which are bad, how many images have uniform white borders."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpd_core.untrusted import shown
from fpd_core.untrusted.images import open_image
from fpd_train.data.bad_samples import BadSample
from fpd_train.data.caption_shards import decoded_caption
from fpd_train.data.image_shards import IMAGE_KEYS
from fpd_train.data.places import Place
from fpd_train.data.shard_index import Plan
from fpd_train.data.shard_walk import Walk, walk_tar
from fpd_train.data.storage import retried, stored
from fpd_train.errors import DataError

WHITE = 245  # of 255: JPEG rings beside an edge
BORDER = 0.02  # of the side, on two opposite sides at least

PARTS = {"captions": ("txt",), "images": IMAGE_KEYS, "labels": ("cls",)}


@dataclass
class Checked:
    """What was found. `sides` counts the images by size."""

    samples: int = 0
    good: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    bordered: int = 0
    images: int = 0
    sides: Counter[tuple[int, int]] = field(default_factory=Counter)

    def report(self) -> list[str]:
        lines = [f"{self.samples} samples, {self.good} good, {self.bad.total()} bad"]
        lines += [f"  {count} {kind}" for kind, count in self.bad.most_common()]
        if self.images:
            sizes = ", ".join(f"{w}x{h} ({count})" for (w, h), count in self.sides.most_common(3))
            share = self.bordered / self.images
            lines.append(f"{self.images} images: {sizes}; {self.bordered} ({share:.1%}) with uniform white borders")
        return lines


def check(places: list[Place], parts: list[str], checked: Checked, retries: int = 3) -> Iterator[str]:
    """Walk and read all shards, adding to `checked`.

    Args:
        parts: what a sample must have, of `PARTS`.

    Yields:
        One line a bad sample, and an empty one after each shard.

    Raises:
        DataError: a source fails.
    """
    plan = Plan(tuple(PARTS[part] for part in parts), (), False, retries, Path())
    for place in places:
        walk = retried(lambda place=place: walk_tar(place, plan.wanted, ()), retries, place.url)  # type: ignore[misc]
        checked.samples += len(walk.offsets) + len(walk.bad)
        for bad in walk.bad:
            checked.bad[bad.kind] += 1
            yield bad.sentence(place.url)
        yield from _read(place, walk, parts, checked)
        yield ""


def _read(place: Place, walk: Walk, parts: list[str], checked: Checked) -> Iterator[str]:
    file = stored(place.url, scattered=False)
    for row, (offsets, sizes) in enumerate(zip(walk.offsets, walk.sizes, strict=True)):
        members = retried(lambda o=offsets, s=sizes: file.ranges(o, s), 3, place.url)  # type: ignore[misc]
        try:
            for part, content in zip(parts, members, strict=True):
                _look(part, content, checked)
            checked.good += 1
        except BadSample as error:
            checked.bad[error.kind] += 1
            yield f"sample {row} of {shown(place.url)} {error}"


def _look(part: str, content: bytes, checked: Checked) -> None:
    if part == "captions":
        decoded_caption(content)
    elif part == "labels":
        if not content.strip().isdigit():
            raise BadSample("no label", "has no integer label (.cls)")
    else:
        try:
            image = open_image(content, source="image", error=DataError).convert("RGB")
        except DataError as error:
            raise BadSample("undecodable image", str(error)) from None
        checked.images += 1
        checked.sides[image.size] += 1
        checked.bordered += has_white_borders(np.asarray(image))


def has_white_borders(image: NDArray[np.uint8]) -> bool:
    """Whether [H, W, 3] begins and ends with white rows, or with white columns, but is not white all over."""
    white: NDArray[np.bool_] = np.all(image >= WHITE, axis=2)
    if white.all():
        return False
    both: list[NDArray[np.bool_]] = [np.all(white, axis=1), np.all(white, axis=0)]
    for lines in both:
        least = max(2, round(BORDER * len(lines)))
        if lines[:least].all() and lines[-least:].all():
            return True
    return False
