"""Writing WebDataset shards: Fashion-MNIST becomes tars of 32x32 PNGs with labels, a text file tars of captions."""

import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path
from typing import Literal

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image

from fpd_core.atomic import sync
from fpd_core.idx import read_images, read_labels
from fpd_core.untrusted import open_regular
from fpd_core.untrusted.limits import CAPTION_BYTES
from fpd_train.data.places import SIZES
from fpd_train.errors import DataError

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
Source = Literal["folder", "debian", "torchvision"]
PADDING = 2  # 28 -> 32 pixels


def locate_fashion(source: Source, folder: Path | None, split: str) -> Path:
    """Folder with the gzipped IDX files of a split, fetched if need be.

    Raises:
        DataError: the source cannot provide them; says what to do instead.
    """
    if source == "folder":
        found = folder or Path()
    elif source == "debian":
        found = DEBIAN_FOLDER
        if not found.exists() and shutil.which("apt-get"):
            subprocess.run(["apt-get", "install", "-y", "-q", DEBIAN_PACKAGE], check=False)
    else:
        found = _download(folder or Path("data"))
    missing = [name for name in FILES[split] if not (found / name).is_file()]
    if missing:
        raise DataError(
            f"{found / missing[0]} does not exist; run `apt-get install {DEBIAN_PACKAGE}` and use --source debian, "
            "give --source folder with --folder holding the gzipped IDX files, or --source torchvision to download them"
        )
    return found


def _download(root: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(root), download=True)  # checks MD5 sums
    except (RuntimeError, OSError) as error:
        raise DataError(f"Fashion-MNIST could not be downloaded: {error}") from None
    return root / "FashionMNIST" / "raw"


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.pad(pixels, PADDING)).save(buffer, format="png")
    return buffer.getvalue()


def fashion_samples(folder: Path, split: str) -> Iterator[dict[str, object]]:
    """WebDataset samples of a split in file order."""
    images, labels = (folder / name for name in FILES[split])
    for index, (pixels, label) in enumerate(zip(read_images(images), read_labels(labels), strict=True)):
        yield {"__key__": f"{index:08d}", "png": _png(pixels), "cls": str(label).encode()}


def caption_samples(path: Path) -> Iterator[dict[str, object]]:
    """WebDataset samples of a UTF-8 text file, one caption per line; empty lines and a byte order mark are left out.

    Raises:
        DataError: the file is absent, not UTF-8 or without captions, or a line is too long for one.
    """
    index = 0
    with io.TextIOWrapper(open_regular(path, error=DataError), encoding="utf-8-sig") as file:
        while line := _line(file, path):
            if caption := line.strip():
                yield {"__key__": f"{index:08d}", "txt": caption.encode()}
                index += 1
    if not index:
        raise DataError(f"captions {path}: no line holds a caption")


def _line(file: io.TextIOWrapper, path: Path) -> str:
    """The next line, empty at the end."""
    try:
        line = file.readline(CAPTION_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"captions {path}: {error}") from None
    if len(line) == CAPTION_BYTES:
        raise DataError(f"captions {path}: a line has {CAPTION_BYTES} characters or more (CAPTION_BYTES)")
    return line


def write_shards(samples: Iterator[dict[str, object]], folder: Path, per_shard: int) -> dict[str, int]:
    """Write tars of `per_shard` samples and `sizes.json`; the folder appears whole or not at all.

    Raises:
        DataError: the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty; remove it or choose another --out")
    with _appearing(folder) as partial:
        sizes: dict[str, int] = {}
        for number in count():
            group = list(islice(samples, 1))
            if not group:
                break
            name = f"shard-{number:05d}.tar"
            sizes[name] = _write_tar(chain(group, islice(samples, per_shard - 1)), partial / name)
        (partial / SIZES).write_text(json.dumps(sizes, indent=1) + "\n")
        sync(partial / SIZES)
    return sizes


def _write_tar(samples: Iterator[dict[str, object]], path: Path) -> int:
    """Write one tar and count its samples. The file is opened here: webdataset would read its name as a URL."""
    written = 0
    with path.open("wb") as file, wds.TarWriter(file) as writer:
        for written, sample in enumerate(samples, start=1):  # noqa: B007
            writer.write(sample)
    sync(path)
    return written


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A hidden folder to fill, which becomes `folder` at the end, or nothing if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        sync(partial)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(folder.parent)
