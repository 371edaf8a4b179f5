"""A folder of pictures by a generator: each drawn alone from its own seed, written at once, never drawn twice.

What a picture shows is a function of (weights, settings, what is wanted, its seed, kind of device). Neither the other
pictures of the run nor an interruption change it: `load_generator(ckpt).generate(wanted, seed=seed)` makes the same.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpd_core.atomic import remove_partials, replacing, write_text
from fpd_core.untrusted import UntrustedError, read_json
from fpd_core.untrusted.images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

    from fpd_core.generator import Generator

SETTINGS, RECORDS, NOTE = "settings.json", "images.jsonl", "fpd"
MAX_SEED = 2**62
GRID_PICTURES, GRID_PIXELS = 256, 256  # in all; the longer side of each


@dataclass(frozen=True)
class Picture:
    """One picture to draw: `wanted` is a prompt or a class."""

    file: str
    wanted: str | int
    seed: int

    @property
    def record(self) -> dict[str, Any]:
        kind = "prompt" if isinstance(self.wanted, str) else "class"
        return {"file": self.file, kind: self.wanted, "seed": self.seed}


def planned(wanted: Sequence[str] | Sequence[int], seeds: Sequence[int] | None, *, seed: int, n: int) -> list[Picture]:
    """Every picture: each prompt or class with each of `seeds`, or else with its own `n` that `seed` leads to."""
    used: Counter[str | int] = Counter()
    pairs: list[tuple[str | int, int]] = []
    for what in wanted:
        pairs += [(what, one) for one in seeds or derived_seeds(seed, what, n, first=used[what])]
        used[what] += n  # what is wanted twice gets other seeds the second time
    return [Picture(f"{index:05d}.png", what, one) for index, (what, one) in enumerate(pairs)]


def derived_seeds(seed: int, wanted: str | int, n: int, *, first: int = 0) -> list[int]:
    """The seeds of pictures `first` to `first + n` of `wanted`: another place to start from for every (seed, wanted),
    from there in even strides through all 32-bit numbers, so that none comes twice.

    32 bits, because torch's generator on the CPU reads no more of a seed.
    """
    digest = hashlib.sha256(json.dumps([seed, wanted]).encode()).digest()
    start, stride = int.from_bytes(digest[:4]), 0x9E3779B9  # 2^32 / golden ratio, odd
    return [(start + k * stride) % 2**32 for k in range(first, first + n)]


def parse_seeds(text: str) -> list[int]:
    """`3,5,8-12` -> [3, 5, 8, 9, 10, 11, 12]. Raises ValueError: not such a list, or a seed comes twice."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--seeds is a list such as 3,5,8-12, got {text!r}")
        low, high = int(first), int(last or first)
        if not low <= high < MAX_SEED or high - low >= 2**20:
            raise ValueError(f"--seeds: {part.strip()} must rise, hold at most {2**20} seeds and stay below 2^62")
        found += range(low, high + 1)
    if len(set(found)) < len(found):
        raise ValueError(f"--seeds {text} names a seed twice")
    return found


def require_own(folder: Path) -> None:
    """Raises ValueError: `folder` is a file, or holds pictures or other files that `fpd-generate` did not write."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder")
    if folder.is_dir() and not (folder / SETTINGS).is_file():
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if foreign:
            raise ValueError(
                f"{folder} holds {foreign[0]}, which fpd-generate did not write there; choose another --out"
            )


def claim(folder: Path, settings: dict[str, Any], pictures: Sequence[Picture]) -> None:
    """Make the folder and note the settings of its pictures, plain JSON, or find the same noted already.

    Raises:
        ValueError: it holds pictures of other settings, or a file that is none of these.
    """
    require_own(folder)
    if folder.is_dir() and (folder / SETTINGS).is_file():
        try:
            found = read_json(folder / SETTINGS)
        except UntrustedError as error:
            raise ValueError(f"{error}; choose another --out") from None
        changed = [key for key in {**settings, **found} if settings.get(key) != found.get(key)]
        if changed:
            raise ValueError(f"{folder} holds pictures of other settings ({', '.join(changed)}); choose another --out")
        known = {SETTINGS, RECORDS, *(picture.file for picture in pictures)}
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in known and path.name[0] != ".")
        if foreign:
            raise ValueError(f"{folder} holds {foreign[0]}, which is not of this run; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    write_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")


def draw(generator: "Generator", pictures: Sequence[Picture], folder: Path, advance: Callable[[int], None]) -> int:
    """Draw what `folder` still lacks; the number of pictures drawn. `images.jsonl` lists those that are there.

    One picture is one pass: a matrix product of several rounds otherwise, and a picture would depend on its neighbours.

    Raises:
        OSError: a picture cannot be written.
    """
    there = [picture for picture in pictures if (folder / picture.file).is_file()]
    finished = set(there)
    write_text(folder / RECORDS, "".join(map(_line, there)))
    advance(len(there))
    with (folder / RECORDS).open("a", encoding="utf-8") as records:
        for picture in pictures:
            if picture not in finished:
                _write(generator, picture, folder / picture.file)
                records.write(_line(picture))
                records.flush()
                advance(1)
    write_text(folder / RECORDS, "".join(map(_line, pictures)))
    return len(pictures) - len(there)


def _line(picture: Picture) -> str:
    return json.dumps(picture.record) + "\n"


def _write(generator: "Generator", picture: Picture, path: Path) -> None:
    import torch
    from PIL import Image

    [image] = generator.generate([picture.wanted], seed=picture.seed)
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, "png", pnginfo=_note(picture))


def _note(picture: Picture) -> "PngInfo":
    from PIL.PngImagePlugin import PngInfo

    note = PngInfo()
    note.add_text(NOTE, json.dumps(picture.record))
    return note


def fingerprint(generator: "Generator") -> str:
    """Of the weights: pictures of two never share a folder."""
    from fpd_core.hashing import hash_tensors  # brings torch

    return hash_tensors(generator.model.state_dict())


def grid_columns(total: int, each: int) -> int:
    """Columns of a grid near a square. Where a divisor of `each`, the pictures per prompt, comes near enough, rows
    begin with a new prompt."""
    square = math.ceil(math.sqrt(total))
    aligned = [d for d in range(1, each + 1) if each % d == 0 and 0.5 <= d / (total / d) <= 2]
    return min(aligned, key=lambda d: abs(math.log(d * d / total))) if aligned else square


def write_grid(pictures: Sequence[Picture], folder: Path, path: Path, each: int) -> int:
    """The first pictures, 256 at most, in one; how many. Raises OSError: it cannot be written."""
    from PIL import Image

    shown = pictures[:GRID_PICTURES]
    columns = grid_columns(len(shown), min(each, len(shown)))
    images = [_small(open_image(folder / picture.file).convert("RGB")) for picture in shown]
    width, height = images[0].size
    grid = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height), "white")
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * width, index // columns * height))
    with replacing(path) as partial:
        grid.save(partial, "png")
    return len(shown)


def _small(image: "Image") -> "Image":
    image.thumbnail((GRID_PIXELS, GRID_PIXELS))
    return image
