"""Captions from files, each with the name of the image that shows it."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from fpd_core.untrusted import parse_json, read_text, shown
from fpd_core.untrusted.limits import CAPTION_BYTES
from fpd_eval.metrics.hpsv2 import STYLES

PROMPT_BYTES, PROMPTS = 2**28, 2**21
ID_LENGTH = 200
CAPTION_COLUMNS = ("image_id", "text")


@dataclass(frozen=True)
class Prompts:
    """`texts[i]` is shown by the image file called `keys[i]`, without suffix."""

    keys: tuple[str, ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def first(self, count: int | None) -> "Prompts":
        """The first `count`, or all."""
        return Prompts(self.keys[:count], self.texts[:count])


def read_prompts(path: Path) -> Prompts:
    """A CSV with the columns `image_id,text`, or a text file with one caption per line, whose keys are 0, 1, 2, ...

    Raises:
        ValueError: absent, of another kind, empty, with a blank caption, or an image id that comes twice or is no name.
    """
    if path.suffix not in (".csv", ".txt"):
        raise ValueError(f"{path} must be a .csv with the columns image_id,text or a .txt with one caption per line")
    text = _read(path)
    prompts = _from_csv(path, text) if path.suffix == ".csv" else _numbered(text)
    if not len(prompts):
        raise ValueError(f"{path} holds no caption")
    blank = [key for key, caption in zip(prompts.keys, prompts.texts, strict=True) if not caption.strip()]
    if blank:
        raise ValueError(f"{path}: the caption of {shown(blank[0])!r} is empty")
    if any(len(caption) > CAPTION_BYTES for caption in prompts.texts):
        raise ValueError(f"{path} has a caption of more than {CAPTION_BYTES} characters (CAPTION_BYTES)")
    paths = [key for key in prompts.keys if Path(key).name != key or len(key) > ID_LENGTH or not key.isprintable()]
    if paths:
        raise ValueError(f"{path}: image_id {shown(repr(paths[0]))} is no name of a file without its suffix")
    if len(set(prompts.keys)) < len(prompts):
        raise ValueError(f"{path} names an image_id twice; every image has one caption")
    return prompts


def read_hps_prompts(folder: Path) -> dict[str, Prompts]:
    """The benchmark's prompts per style from `anime.json`, `concept-art.json`, `paintings.json`, `photo.json`.

    Raises:
        ValueError: a file is absent or not a JSON list of strings.
    """
    return {style: _json_list(folder / f"{style}.json") for style in STYLES}


def _json_list(path: Path) -> Prompts:
    if not path.exists():
        raise ValueError(f"{path} does not exist: copy the folder `benchmark` of the data set zhwang/HPDv2 there")
    texts = parse_json(_read(path), source=str(path))
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path} must hold a JSON list of prompts")
    return Prompts(tuple(f"{index:05d}" for index in range(len(texts))), tuple(texts))


def _from_csv(path: Path, text: str) -> Prompts:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [name for name in CAPTION_COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the column {missing[0]!r}; it must have the columns image_id,text")
        pairs = [(row["image_id"] or "", row["text"] or "") for row in rows]
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
    return Prompts(tuple(key for key, _ in pairs), tuple(caption for _, caption in pairs))


def _numbered(text: str) -> Prompts:
    texts = tuple(line.rstrip("\n") for line in io.StringIO(text, newline=None))
    return Prompts(tuple(map(str, range(len(texts)))), texts)


def _read(path: Path) -> str:
    text = read_text(path, limit=PROMPT_BYTES, name="PROMPT_BYTES")
    if max(text.count("\n"), text.count("\r")) > PROMPTS:
        raise ValueError(f"{path} has more than {PROMPTS} lines (PROMPTS)")
    return text
