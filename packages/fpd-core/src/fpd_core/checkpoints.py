"""Weight folders: `config.json` + `model.safetensors` + `README.md`, written atomically, loaded strictly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class CheckpointError(ValueError):
    """A weight file is absent, unreadable or does not fit the network; the message names the file and the remedy."""


def save_folder(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], card: str) -> None:
    """Write a weight folder. Each file appears whole or not at all: temporary name, then rename.

    Args:
        state: tensors by name, in the dtype to store.
        card: the model card, Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS}.partial"
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(tensors, str(partial), metadata={"format": "pt", "format_version": "1"})
    partial.chmod(0o644)  # safetensors creates it readable by the owner alone
    partial.replace(folder / WEIGHTS)
    for name, text in ((CARD, card), (CONFIG, json.dumps(config, indent=2) + "\n")):
        partial = folder / f"{name}.partial"
        partial.write_text(text)
        partial.replace(folder / name)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a weight folder.

    Raises:
        CheckpointError: no such folder or file, or not JSON.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder} is not a weight folder: {path} does not exist") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of a weight folder, in the stored dtype.

    Raises:
        CheckpointError: the file is absent or damaged.
    """
    path = folder / WEIGHTS
    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; copy the weight file of {folder.name!r} there") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every tensor, cast to the module's dtype; no key may be missing, left over or of another shape.

    Raises:
        CheckpointError: names the first differing keys and `source`.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in sorted(own.keys() & state.keys())
        if own[k].shape != state[k].shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for what, found in (("missing", missing), ("unexpected", extra), ("of wrong shape", shapes))
        if found
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict({name: state[name].to(own[name].dtype) for name in own})


def cast(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors with floating-point ones in `dtype`."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
