"""Image sets in files: folders of pictures and ADM's `.npz`. What a metric cannot take is refused in one sentence
before any network runs."""

import json
import math
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fpd_core.atomic import replacing, write_text
from fpd_core.untrusted import read_json, shown
from fpd_core.untrusted.arrays import ArrayArchive
from fpd_core.untrusted.images import read_header
from fpd_core.untrusted.limits import IMAGE_PIXELS
from fpd_eval.images.image_set import ImageSet
from fpd_eval.images.paired_files import SUFFIXES, open_all, open_rgb
from fpd_eval.runtime.cache import hash_file, hash_json
from fpd_eval.runtime.progress import Track
from fpd_eval.runtime.ranks import Ranks

MANIFEST = "images.json"
GREY_MODES = ("L", "1", "I", "F", "I;16")


def open_images(path: Path, batch_size: int) -> ImageSet[Tensor]:
    """The images of a folder, or `arr_0` of an `.npz` file.

    Raises:
        ValueError: nothing usable there; the sentence says what and how to mend it.
    """
    if path.is_dir():
        return folder_images(path, batch_size)
    if path.suffix == ".npz":
        return npz_images(path, batch_size)
    raise ValueError(f"{path} is neither a folder of images nor an .npz file with images")


def folder_images(folder: Path, batch_size: int) -> ImageSet[Tensor]:
    """The pictures directly in `folder`, by name. Grey ones count as RGB, as in the official programs, with a warning.

    A folder written by `--save-images` must still hold what its manifest says.

    Raises:
        ValueError: no image, one that is damaged, has transparency or is not square, different sizes, or another count
            than the manifest's.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    _require_manifest_count(folder, len(files))
    headers = [_header(path) for path in files]
    (size, _), *others = Counter(headers_size for headers_size, _ in headers).most_common()
    if others:
        odd = next(path for path, header in zip(files, headers, strict=True) if header[0] != size)
        raise ValueError(f"{odd} is {_by(others[0][0])} pixels, most images of its folder are {_by(size)}")
    grey = [path for path, (_, mode) in zip(files, headers, strict=True) if mode in GREY_MODES]
    if grey:
        warnings.warn(f"{len(grey)} images of {folder} are grey ({grey[0].name} first) and count as RGB", stacklevel=2)
    return ImageSet(
        title=str(folder),
        identity=hash_json([[path.name, hash_file(path)] for path in files]),
        count=len(files),
        batch_size=batch_size,
        batch=lambda start: torch.stack([_tensor(image) for image in open_all(files[start : start + batch_size])]),
    )


def read_rgb(path: Path) -> Tensor:
    """uint8 [3, H, W] of a picture. Raises ValueError: see `open_rgb`."""
    return _tensor(open_rgb(path))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) and Pillow mode, without decoding the pixels."""
    found = read_header(path)
    size = found.width, found.height
    if found.has_alpha:
        raise ValueError(f"{path} has transparency ({found.mode}); flatten it onto a background and save it as RGB")
    if size[0] != size[1]:
        raise ValueError(f"{path} is {_by(size)} pixels, not square; crop all images to squares in one way")
    return size, found.mode


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def npz_images(path: Path, batch_size: int) -> ImageSet[Tensor]:
    """Array `arr_0` of an `.npz` file: uint8 [N, H, W, 3], as ADM's scripts write it. Read piece by piece.

    Raises:
        ValueError: absent, damaged, without that array, or not square 8-bit RGB images.
    """
    reader = _NpzReader(path, batch_size)
    count, height, width, _ = reader.shape
    if height != width:
        raise ValueError(f"{path}: images of {width} x {height} pixels are not square")
    return ImageSet(
        title=path.name,
        identity=["arr_0", hash_file(path)],
        count=count,
        batch_size=batch_size,
        batch=lambda start: reader.read(start, min(batch_size, count - start)),
    )


class _NpzReader:
    """Rows of `arr_0` without the whole array in memory (9.8 GB for ADM's 50,000 images)."""

    def __init__(self, path: Path, batch_size: int) -> None:
        self.path = path
        archive = ArrayArchive(path)
        if "arr_0" not in archive.names:
            raise ValueError(f"{path} holds no images `arr_0`, only {', '.join(map(shown, archive.names))}")
        header, self._file = archive.stream("arr_0")
        self.shape, self._archive = header.shape, archive
        is_rgb = header.dtype == np.uint8 and len(self.shape) == 4 and self.shape[3] == 3
        if not is_rgb or header.is_fortran or not all(self.shape):
            raise ValueError(f"{path}: arr_0 must be uint8 images [N, H, W, 3], got {header.dtype} {list(self.shape)}")
        if min(batch_size, self.shape[0]) * self.shape[1] * self.shape[2] > 4 * IMAGE_PIXELS:
            raise ValueError(f"{path}: {batch_size} images of {self.shape[1:3]} pixels are too many (IMAGE_PIXELS)")
        self._first = self._file.tell()

    def read(self, start: int, count: int) -> Tensor:
        """uint8 [count, 3, H, W]. Quick in rising order: the archive is a stream."""
        row = math.prod(self.shape[1:])
        try:
            self._file.seek(self._first + start * row)
            data = self._file.read(count * row)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise ValueError(f"{self.path} is damaged: {error}") from None
        if len(data) != count * row:
            raise ValueError(f"{self.path} is truncated: image {start + len(data) // row} is missing")
        images = np.frombuffer(bytearray(data), np.uint8).reshape(count, *self.shape[1:])
        return torch.from_numpy(images).permute(0, 3, 1, 2)


def saved_images(images: ImageSet[Tensor], folder: Path, track: Track, ranks: Ranks) -> ImageSet[Tensor]:
    """`images` as PNG files in `folder`, and the set that reads them. Collective. Files that are there are kept.

    Raises:
        ValueError: the folder holds other images.
    """
    if ranks.is_main:
        _claim(folder, images)
    ranks.barrier()

    def paths(start: int) -> list[Path]:
        return [png_path(folder, i) for i in range(start, min(start + images.batch_size, images.count))]

    own = ranks.share(images.starts)
    with track(f"{images.title} to {folder}", len(own) * images.batch_size) as advance:
        for start in own:
            if not all(path.exists() for path in paths(start)):
                _write(images.batch(start), paths(start))
            advance(images.batch_size)
    ranks.barrier()
    return ImageSet(
        title=images.title,
        identity=images.identity,
        count=images.count,
        batch_size=images.batch_size,
        batch=lambda start: torch.stack([read_rgb(path) for path in paths(start)]),
    )


def png_path(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.png"


def _write(pixels: Tensor, paths: Sequence[Path]) -> None:
    for image, path in zip(pixels, paths, strict=True):
        with replacing(path) as partial:
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(partial, "png")


def _claim(folder: Path, images: ImageSet[Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, Any] = {"title": images.title, "identity": images.identity, "count": images.count}
    manifest = folder / MANIFEST
    if not manifest.exists():
        if any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
            raise ValueError(f"{folder} holds images of unknown origin; give --save-images an empty folder")
        write_text(manifest, json.dumps(wanted, indent=2) + "\n")
    elif read_json(manifest) != json.loads(json.dumps(wanted)):
        raise ValueError(f"{folder} holds images of another system, seed or plan; give --save-images an empty folder")


def _require_manifest_count(folder: Path, count: int) -> None:
    if (folder / MANIFEST).exists() and (expected := read_json(folder / MANIFEST).get("count")) != count:
        raise ValueError(f"{folder} holds {count} images, its {MANIFEST} says {expected}; generate it again")
