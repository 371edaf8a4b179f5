"""IDX files, the format Fashion-MNIST is published in."""

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpd_core.untrusted.archives import read_gzip


def _read(path: str | Path, dimensions: int) -> NDArray[np.uint8]:
    raw = read_gzip(Path(path), error=ValueError)
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{path} is not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    if len(raw) - header != math.prod(shape):
        raise ValueError(f"{path} is truncated: {len(raw) - header} bytes for shape {shape}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def read_images(path: str | Path) -> NDArray[np.uint8]:
    """Grey images [N, H, W] of a gzipped IDX file. Raises ValueError: absent, damaged or of another kind."""
    return _read(path, 3)


def read_labels(path: str | Path) -> NDArray[np.uint8]:
    """Labels [N] of a gzipped IDX file. Raises ValueError: absent, damaged or of another kind."""
    return _read(path, 1)
