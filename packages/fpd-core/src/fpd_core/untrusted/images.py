"""Images from outside: a few raster formats, of bounded size, decoded before they are returned."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fpd_core.untrusted.files import Failure, UntrustedError, read_bytes, shown
from fpd_core.untrusted.limits import IMAGE_BYTES, IMAGE_PIXELS

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
    image = _header(content, source, error)
    if image.width * image.height > max_pixels:
        raise _too_large(source, f"{image.width} x {image.height}", max_pixels, error)
    try:
        image.load()
    except _DAMAGE as cause:
        raise error(f"{source} cannot be decoded: {shown(cause)}") from None
    return _eight_bit(image) if image.mode in _SIXTEEN_BIT else image


def _header(content: bytes, source: str, error: Failure) -> Image.Image:
    """The image with its size and mode, its pixels not yet decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is the lower one
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise error(f"{source} cannot be decoded: no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    except Image.DecompressionBombError:
        raise _too_large(source, "far too many", IMAGE_PIXELS, error) from None
    except _DAMAGE as cause:
        raise error(f"{source} cannot be decoded: {shown(cause)}") from None


def _too_large(source: str, size: str, limit: int, error: Failure) -> ValueError:
    return error(f"{source} has {size} pixels, more than the {limit} that are read (IMAGE_PIXELS)")


def _eight_bit(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
