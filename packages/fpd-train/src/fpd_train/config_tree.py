"""A run's JSON file and its `--set` overrides as plain data, read without importing torch."""

import json
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
        apply(tree, override)
    return tree


def apply(tree: dict[str, Any], override: str) -> None:
    """Set one value, `a.b=c`, in place. Raises ConfigError: the override is malformed."""
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


# The noise that stands for shards, and the keys it keeps of them.
_NOISE = {
    "caption_shards": ("noise_captions", ()),
    "encoded_captions": ("noise_captions", ()),
    "image_shards": ("noise_images", ("num_classes", "image_size")),
    "pair_shards": ("noise_pairs", ("num_classes", "codebook_size", "seq_len")),
    "captioned_pair_shards": ("noise_captioned_pairs", ("codebook_size", "seq_len")),
}


def synthetic_overrides(tree: dict[str, Any]) -> list[str]:
    """The overrides by which a run opens no file: weights by formula, noise for shards, no student to start from."""
    method, data = (tree[key] if isinstance(tree.get(key), dict) else {} for key in ("method", "data"))
    changes: dict[str, Any] = {"method.teacher.weights": "synthetic"}
    if method.get("name") == "fpd":
        changes["method.lift.backbone.weights"] = "synthetic"
    if "start" in method:
        changes["method.start"] = None
    if data.get("name") in _NOISE:
        name, keys = _NOISE[data["name"]]
        changes["data"] = {"name": name, **{key: data[key] for key in keys if key in data}}
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]
