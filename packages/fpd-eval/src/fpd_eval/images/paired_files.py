"""Image files: found in a folder, opened with one clear sentence when something is wrong."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from fpd_core.untrusted.images import open_image, open_images

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def find_images(folder: Path) -> dict[str, Path]:
    """File stem -> image file, for the images directly in `folder`, sorted by stem; numbers by their value.

    Raises:
        ValueError: no such folder, no image in it, or two files of one stem.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of images")
    files = sorted((path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES), key=_order)
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise ValueError(f"{found[path.stem]} and {path.name} share a name; keep one image per name")
        found[path.stem] = path
    if not found:
        raise ValueError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
    return found


def find_paired(folder: Path, keys: Sequence[str], *, spare: Sequence[str] = ()) -> list[Path]:
    """The image of every key, in the order of `keys`. Leading zeros of numbers do not count: `7` is `00007.png`.

    Args:
        spare: keys whose images may be there and are not wanted.

    Raises:
        ValueError: an image is missing, or the folder holds images that no key names.
    """
    images = {_normal(stem): path for stem, path in find_images(folder).items()}
    wanted = [_normal(key) for key in keys]
    missing = [key for key, normal in zip(keys, wanted, strict=True) if normal not in images]
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} of {len(keys)} images, first the one called {missing[0]!r}")
    extra = sorted(images.keys() - {*wanted, *map(_normal, spare)})
    if extra:
        raise ValueError(f"{folder} holds {len(extra)} images without a caption, first {images[extra[0]].name}")
    return [images[key] for key in wanted]


def open_rgb(path: Path) -> Image.Image:
    """The decoded image in RGB. Grey and palette images keep their colours.

    Raises:
        ValueError: absent, truncated, not an image, or with an alpha channel, whose background nothing defines.
    """
    return _rgb(open_image(path), path)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.has_transparency_data:
        raise ValueError(f"{path} has transparent pixels; flatten it onto a background first")
    return image.convert("RGB")


def open_all(paths: Iterable[Path]) -> list[Image.Image]:
    """`open_rgb` of every path. Raises ValueError: as there, or together they would fill the memory."""
    files = list(paths)
    return [_rgb(image, path) for image, path in zip(open_images(files), files, strict=True)]


def _normal(stem: str) -> str:
    return str(int(stem)) if stem.isdecimal() else stem


def _order(path: Path) -> tuple[bool, int, str]:
    return (not path.stem.isdecimal(), int(path.stem) if path.stem.isdecimal() else 0, path.stem)
