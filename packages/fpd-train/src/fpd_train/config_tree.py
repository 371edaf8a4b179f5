"""A run's JSON file and its `--set` overrides as plain data, read without importing torch."""

from pathlib import Path
from typing import Any

from fpd_core.config import ConfigError
from fpd_core.untrusted import parse_json, read_json, shown


def read_tree(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The file's object with `a.b=c` overrides applied; c is JSON where it parses, else a string.

    Raises:
        ConfigError: the file is absent or not JSON, or an override is malformed.
    """
    tree = read_json(path, what="config", error=ConfigError)
    for override in overrides:
        _apply(tree, override)
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {shown(override)!r} is not of the form section.key=value")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {shown(override)!r}: {shown(parent)!r} is a value, not a section")
        node = child
    try:
        node[last] = parse_json(text, source=f"--set {shown(key)}", error=ConfigError)
    except ConfigError:
        if text.startswith(("[", "{")):  # meant as JSON
            raise
        node[last] = text
