"""Images from outside: a few raster formats, of bounded size, decoded before they are returned."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from fpd_core.untrusted.files import Failure, UntrustedError, open_regular, read_bytes, shown
from fpd_core.untrusted.limits import IMAGE_ASPECT, IMAGE_BYTES, IMAGE_PIXELS

# Pillow would also start Ghostscript for a file that only looks like an image.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# What Pillow raises for damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def open_image(
    content: Path | bytes, *, source: str = "", max_pixels: int = IMAGE_PIXELS, error: Failure = UntrustedError
) -> Image.Image:
    """A decoded image of 8 bits a channel, in its own mode ("L", "RGB", "RGBA", "P" ...).

    Grey of 16 bits becomes the nearest of 256 levels: v / 257, where Pillow's own conversion would cut at 255.

    Args:
        content: a file, or its bytes.
        source: names the image in messages; by default the path.

    Raises:
        error: no regular file, too large, damaged, or of another format.
    """
    source = source or shown(content if isinstance(content, Path) else "the image")
    if isinstance(content, Path):
        content = read_bytes(content, limit=IMAGE_BYTES, name="IMAGE_BYTES", error=error)
    with _opened(io.BytesIO(content), source, max_pixels, error) as image:
        image.load()
    return _eight_bit(image) if image.mode in _SIXTEEN_BIT else image


def open_images(
    contents: Iterable[Path | bytes], *, max_pixels: int = 4 * IMAGE_PIXELS, error: Failure = UntrustedError
) -> Iterator[Image.Image]:
    """`open_image` of each; together they may have `max_pixels`, as they will be held at once."""
    left = max_pixels
    for content in contents:
        image = open_image(content, error=error)
        left -= image.width * image.height
        if left < 0:
            last = shown(content) if isinstance(content, Path) else "the image"
            raise error(f"{last} and those before it have more than {max_pixels} pixels together (4 x IMAGE_PIXELS)")
        yield image


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image before the pixels are decoded; `mode` is Pillow's."""

    width: int
    height: int
    mode: str
    has_alpha: bool


def read_header(path: Path, *, max_pixels: int = IMAGE_PIXELS, error: Failure = UntrustedError) -> ImageHeader:
    """The header of an image file. Raises `error` as `open_image` does, apart from damaged pixels."""
    with open_regular(path, error=error) as file, _opened(file, shown(path), max_pixels, error) as image:
        return ImageHeader(image.width, image.height, image.mode, image.has_transparency_data)


@contextmanager
def _opened(stream: IO[bytes], source: str, max_pixels: int, error: Failure) -> Iterator[Image.Image]:
    """An image of a known format and size, its pixels not yet decoded; what its use raises becomes `error`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is the lower one
            image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise error(f"{source} cannot be decoded: no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    except Image.DecompressionBombError:
        raise _too_large(source, "far too many", max_pixels, error) from None
    except _DAMAGE as cause:
        raise error(f"{source} cannot be decoded: {shown(cause)}") from None
    if image.width * image.height > max_pixels:
        raise _too_large(source, f"{image.width} x {image.height}", max_pixels, error)
    if max(image.size) > IMAGE_ASPECT * min(image.size):
        sides = f"{image.width} x {image.height}"
        raise error(f"{source} has {sides} pixels, longer than {IMAGE_ASPECT} times its other side (IMAGE_ASPECT)")
    try:
        yield image
    except _DAMAGE as cause:
        raise error(f"{source} cannot be decoded: {shown(cause)}") from None


def _too_large(source: str, size: str, limit: int, error: Failure) -> ValueError:
    return error(f"{source} has {size} pixels, more than the {limit} that are read (IMAGE_PIXELS)")


def _eight_bit(image: Image.Image) -> Image.Image:
    def scaled(grey: np.ndarray) -> np.ndarray:
        return ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)

    levels = Image.fromarray(scaled(np.asarray(image)))
    if "transparency" in image.info:
        levels.info["transparency"] = int(scaled(np.asarray(image.info["transparency"])))
    return levels
