"""Writing WebDataset shards: Fashion-MNIST becomes tars of 32x32 PNGs with labels, a text file tars of captions."""

import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image

from fpd_core.idx import read_images, read_labels
from fpd_train.data.shards import SIZES
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
    """WebDataset samples of a UTF-8 text file with one caption per line; empty lines are left out.

    Raises:
        DataError: the file is absent, not UTF-8 or without captions.
    """
    try:
        with path.open(encoding="utf-8") as file:
            captions = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"captions {path}: {error}") from None
    if not captions:
        raise DataError(f"captions {path}: no line holds a caption")
    for index, caption in enumerate(captions):
        yield {"__key__": f"{index:08d}", "txt": caption.encode()}


def write_shards(samples: Iterator[dict[str, object]], folder: Path, per_shard: int) -> dict[str, int]:
    """Write tars of `per_shard` samples and `sizes.json`; the folder appears whole or not at all.

    Raises:
        DataError: the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; remove it or choose another --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    sizes: dict[str, int] = {}
    with wds.ShardWriter(str(partial / "shard-%05d.tar"), maxcount=per_shard, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
            sizes[Path(writer.fname).name] = writer.count
    (partial / SIZES).write_text(json.dumps(sizes, indent=1) + "\n")
    partial.chmod(0o755)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    return sizes
