"""JSON from outside: UTF-8, of bounded size and depth, each key once, every number finite."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fpd_core.untrusted.files import Failure, UntrustedError, read_bytes, shown
from fpd_core.untrusted.limits import JSON_BYTES, JSON_DEPTH

_KINDS = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
_DIGITS = 40  # more than any count or seed has
# A string, closed or not, or one bracket; possessive, so that no text makes it slow.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[{]|[\]}]', re.DOTALL)


class _Refused(ValueError):
    """Valid for Python's parser, not for us; says why."""


def read_json(
    path: Path,
    *,
    what: str = "",
    max_bytes: int = JSON_BYTES,
    max_depth: int = JSON_DEPTH,
    error: Failure = UntrustedError,
) -> dict[str, Any]:
    """The object that a JSON file holds; a byte order mark is skipped.

    Args:
        what: what the file is, put before its path in messages: "config", "sizes of the shards".

    Raises:
        error: absent, no regular file, too large or too deep, not UTF-8, not JSON, or not an object.
    """
    source = f"{what} {shown(path)}".strip()
    content = read_bytes(path, limit=max_bytes, name="JSON_BYTES", error=error)
    return parse_object(content, source=source, max_depth=max_depth, error=error)


def read_json_lines(
    path: Path, *, limit: int, name: str, error: Failure = UntrustedError
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line but empty ones.

    Args:
        limit: bytes of the file; `name` is what the limit is called. A line may have JSON_BYTES.

    Raises:
        error: as `read_json`; the message names the line.
    """
    for number, line in enumerate(read_bytes(path, limit=limit, name=name, error=error).split(b"\n"), start=1):
        if len(line) > JSON_BYTES:
            raise error(f"{shown(path)}:{number} has more than {JSON_BYTES} bytes (JSON_BYTES)")
        if line.strip():
            yield f"{shown(path)}:{number}", parse_object(line, source=f"{shown(path)}:{number}", error=error)


def parse_object(
    content: str | bytes, *, source: str, max_depth: int = JSON_DEPTH, error: Failure = UntrustedError
) -> dict[str, Any]:
    """`parse_json` of a text that must hold an object at its root."""
    tree = parse_json(content, source=source, max_depth=max_depth, error=error)
    if not isinstance(tree, dict):
        raise error(f"{source} must hold a JSON object {{...}}, found {_KINDS[type(tree)]}")
    return tree


def parse_json(
    content: str | bytes, *, source: str, max_depth: int = JSON_DEPTH, error: Failure = UntrustedError
) -> Any:
    """What a JSON text says.

    Args:
        source: names the text in messages.

    Raises:
        error: not UTF-8, not JSON, deeper than `max_depth`, a key given twice, or NaN, Infinity or a number beyond
            what a float can hold.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        if _is_deeper(text, max_depth):
            raise _Refused(f"nests lists and objects deeper than {max_depth} (JSON_DEPTH)")
        tree = json.loads(text, object_pairs_hook=_once, parse_int=_whole)
        _refuse_non_finite(tree, ())
        json.dumps(tree, ensure_ascii=False).encode()
    except _Refused as cause:
        raise error(f"{source} {cause}") from None
    except UnicodeDecodeError as cause:
        raise error(f"{source} is not UTF-8 text (byte {cause.start})") from None
    except UnicodeEncodeError:
        raise error(f"{source} holds half a surrogate pair, which is no character") from None
    except ValueError as cause:
        raise error(f"{source} is not valid JSON: {cause}") from None
    return tree


def _is_deeper(text: str, limit: int) -> bool:
    """Whether anything nests deeper than `limit`; asked first, because the parser recurses."""
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > limit:
                return True
        elif token[0] in "]}":
            depth -= 1
    return False


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs:
        if key in tree:
            raise _Refused(f"gives the key {shown(key)!r} twice")
        tree[key] = value
    return tree


def _refuse_non_finite(tree: Any, path: tuple[str, ...]) -> None:
    """Python's parser takes NaN and Infinity, and makes Infinity of 1e999."""
    if isinstance(tree, float) and not math.isfinite(tree):
        raise _Refused(f"holds {tree}{' at ' if path else ''}{shown('.'.join(path))}; numbers must be finite")
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        _refuse_non_finite(child, (*path, str(key)))


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise _Refused(f"holds a number of {len(text)} digits")
    return int(text)
