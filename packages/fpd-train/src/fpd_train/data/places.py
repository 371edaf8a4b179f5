"""Which shards a config names: a folder, a pattern, a URL, a command, a list of those, or several joined by `::`.

Schemes count only where the config allows them by name. Names from `sizes.json` or a list, which are data, never choose
a command and, in `sizes.json`, never leave the folder.
"""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from braceexpand import braceexpand

from fpd_core.untrusted import parse_object, read_text, shown
from fpd_core.untrusted.limits import JSON_BYTES
from fpd_train.data.remote import list_remote
from fpd_train.data.storage import content_of
from fpd_train.errors import DataError

Scheme = Literal["pipe", "http", "https", "s3", "gs"]
SIZES = "sizes.json"
SAMPLES = 10**9  # of one shard, at most
_SHARDS = 10**6  # that one pattern may name
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?!:)")
# Harmless in a URL and in a shell; ".." and hidden files do not match.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*(/[A-Za-z0-9_][A-Za-z0-9_.+=@-]*)*")


class Place(NamedTuple):
    """One shard: a path, a URL or `pipe:` and a command; how many samples it should hold, where something says so."""

    url: str
    expected: int | None = None


def parts(text: str) -> list[str]:
    """The sources that `::` joins."""
    return text.split("::")


def scheme_of(part: str) -> str | None:
    """`http` of `http://host/shards`, `pipe` of `pipe:cat shards`; None for what lies on this machine."""
    found = _SCHEME.match(part)
    return found[1].lower() if found else None


def check_schemes(text: str, allowed: Sequence[str]) -> None:
    """Raises ValueError: a part of `text` names a scheme that is not allowed."""
    for part in parts(text):
        scheme = scheme_of(part)
        if scheme is not None and scheme not in allowed:
            raise ValueError(
                f"folder {shown(part)!r} begins with {scheme!r}, which is not among allow {list(allowed)}; "
                "allow it there, or write ./ before the name of a local folder"
            )


def is_local(text: str) -> bool:
    return all(scheme_of(part) is None for part in parts(text))


def find_shards(text: str, allowed: Sequence[str]) -> list[Place]:
    """Every shard, each part's in the order of their names.

    Raises:
        DataError: a part names none, or a listed one is missing; a shard is named twice.
    """
    places = [place for part in parts(text) for place in _expand(part, allowed)]
    seen: set[str] = set()
    for place in places:
        if place.url in seen:
            raise DataError(f"{shown(text)} names {shown(place.url)} twice")
        seen.add(place.url)
    return places


def _expand(part: str, allowed: Sequence[str]) -> list[Place]:
    scheme = scheme_of(part)
    if scheme is None and Path(part).is_dir():
        return _folder(part)
    if scheme is None and Path(part).is_file() and not part.endswith(".tar"):
        return _listed(Path(part), allowed)
    found = [place for one in _braces(part) for place in _matches(one, scheme)]
    if not found:
        raise DataError(f"{shown(part)} matches no shard")
    return found


def _braces(part: str) -> list[str]:
    try:
        expanded = list(islice(braceexpand(part), _SHARDS + 1))
    except ValueError as error:
        raise DataError(f"{shown(part)} is no pattern: {shown(error)}") from None
    if len(expanded) > _SHARDS:
        raise DataError(f"{shown(part)} names more than {_SHARDS} shards")
    return expanded


def _matches(one: str, scheme: str | None) -> Iterator[Place]:
    if scheme == "pipe" and ".tar" not in one:
        yield from _folder(one, scheme)
    elif scheme == "pipe":
        yield Place(one)
    elif scheme is None:
        found = sorted(glob(one)) if has_magic(one) and not Path(one).exists() else [one]
        for path in found:
            if Path(path).is_dir():
                yield from _folder(path)
            elif not Path(path).exists():
                raise DataError(f"{shown(path)} does not exist; write shards with `fpd-train shards --help`")
            else:
                yield Place(path)
    elif has_magic(one) and scheme in ("s3", "gs"):
        yield from (Place(url) for url in list_remote(re.split(r"[*?\[]", one)[0]) if fnmatchcase(url, one))
    elif one.partition("?")[0].endswith(".tar"):
        yield Place(one)
    else:
        yield from _folder(one.rstrip("/"), scheme)


def _folder(folder: str, scheme: str | None = None) -> list[Place]:
    """The shards that `sizes.json` lists, without it every `.tar`. A command gets `/sizes.json` or `/NAME` appended."""
    listed = f"{folder}/{SIZES}"
    content = content_of(listed, JSON_BYTES, name="JSON_BYTES")
    if content is not None:
        return _sizes(folder, listed, content, scheme)
    if scheme in ("http", "https"):
        raise DataError(f"{shown(listed)} does not exist, and web servers list no folders: name the shards by braces")
    if scheme is None:
        found = sorted(str(path) for path in Path(folder).glob("*.tar"))
    else:
        found = [url for url in list_remote(f"{folder}/") if fnmatchcase(url, f"{folder}/*.tar")]
    if not found:
        raise DataError(f"{shown(folder)} holds no .tar; write shards with `fpd-train shards --help`")
    return [Place(url) for url in found]


def _sizes(folder: str, listed: str, content: bytes, scheme: str | None) -> list[Place]:
    sizes = parse_object(content, source=listed, error=DataError)
    if not sizes:
        raise DataError(f"{listed} lists no shard; write the shards again with `fpd-train shards`")
    for name, count in sizes.items():
        if not _NAME.fullmatch(name):
            raise DataError(
                f"{listed} lists {shown(name)!r}; a shard's name is a path below the folder of letters, digits, _.+=@-"
            )
        if type(count) is not int or not 1 <= count <= SAMPLES:
            raise DataError(
                f"{listed} gives {name} the size {shown(repr(count))}; a size is a whole number from 1 to {SAMPLES}"
            )
        path = Path(folder, name)
        if scheme is None and not path.is_file():
            raise DataError(
                f"shard {name} is listed in {listed} but missing; write the shards again with `fpd-train shards`"
            )
        if scheme is None and not path.resolve().is_relative_to(Path(folder).resolve()):
            raise DataError(f"{path} is a link that leaves {folder}")
    return [Place(f"{folder}/{name}", count) for name, count in sorted(sizes.items())]


def _listed(path: Path, allowed: Sequence[str]) -> list[Place]:
    """The shards in a text file, one path, URL or pattern a line; paths are meant from the file's folder."""
    lines = [line.strip() for line in read_text(path, limit=JSON_BYTES, name="JSON_BYTES", error=DataError).split("\n")]
    found: list[Place] = []
    for line in lines:
        scheme = scheme_of(line)
        if scheme == "pipe" or (scheme is not None and scheme not in allowed):
            raise DataError(
                f"{shown(path)} lists {shown(line)!r}; a list names paths and URLs of the schemes that allow names, "
                "never a command"
            )
        if line and not line.startswith("#"):
            own = line if scheme is not None else str(path.parent / line)
            found += [place for one in _braces(own) for place in _matches(one, scheme)]
    if not found:
        raise DataError(f"{shown(path)} lists no shard")
    return found
