"""IDX files, the format Fashion-MNIST is published in."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def _read(path: str | Path, dimensions: int) -> NDArray[np.uint8]:
    path = Path(path)
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{path} is not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    if len(raw) - header != np.prod(shape):
        raise ValueError(f"{path} is truncated: {len(raw) - header} bytes for shape {shape}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def read_images(path: str | Path) -> NDArray[np.uint8]:
    """Grey images [N, H, W] of a gzipped IDX file. Raises ValueError: absent, damaged or of another kind."""
    return _read(path, 3)


def read_labels(path: str | Path) -> NDArray[np.uint8]:
    """Labels [N] of a gzipped IDX file. Raises ValueError: absent, damaged or of another kind."""
    return _read(path, 1)
