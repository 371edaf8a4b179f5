"""Pictures with their captions, for extractors with two towers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from fpd_eval.images.image_set import ImageSet
from fpd_eval.images.paired_files import open_all
from fpd_eval.runtime.cache import hash_file, hash_json
from fpd_eval.runtime.progress import Track


@dataclass(frozen=True)
class Pairs:
    """RGB pictures of any size; `captions[i]` belongs to `pictures[i]`."""

    pictures: Sequence[Image.Image]
    captions: Sequence[str]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, part: slice) -> "Pairs":
        return Pairs(self.pictures[part], self.captions[part])


def captioned_files(
    groups: Mapping[str, tuple[Sequence[Path], Sequence[str]]], *, title: str, batch_size: int, track: Track
) -> ImageSet[Pairs]:
    """Files and their captions, group by group; labels are the positions of the groups.

    Raises:
        ValueError: a file is absent or, while reading, damaged or transparent.
    """
    files = [file for found, _ in groups.values() for file in found]
    captions = [caption for _, said in groups.values() for caption in said]
    hashes = []
    with track(f"checksums, {title}", len(files)) as advance:
        for file in files:
            hashes.append(hash_file(file))
            advance(1)

    def batch(start: int) -> Pairs:
        part = slice(start, start + batch_size)
        return Pairs(open_all(files[part]), captions[part])

    sizes = torch.tensor([len(found) for found, _ in groups.values()])
    labels = torch.arange(len(groups)).repeat_interleave(sizes)
    return ImageSet(
        title, hash_json([hashes, captions]), len(files), batch_size, batch, labels=labels, has_captions=True
    )
