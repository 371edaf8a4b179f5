"""Weight folders: `config.json` + `model.safetensors` + `README.md`, written atomically, loaded strictly."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fpd_core.atomic import replacing, write_text
from fpd_core.config import CheckpointError as CheckpointError
from fpd_core.config import ConfigError, explain
from fpd_core.places import bundled
from fpd_core.untrusted import open_regular, read_json, shown

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT_VERSION = 1
M = TypeVar("M", bound=nn.Module)


def unfit(path: Path, what: str, error: BaseException) -> CheckpointError:
    """The answer to what a library raised for damaged weights or settings that make no sense: `path` `what`: reason."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(f"{path} {what}: {shown(reason[0])}")


def save_folder(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], card: str) -> None:
    """Write a weight folder. Each file appears whole or not at all; equal arguments give equal bytes.

    Args:
        config: sections of `config.json`; the format's version is added.
        state: tensors by name, in the dtype to store.
        card: the model card, Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with replacing(folder / WEIGHTS) as partial:
        # A second entry of the metadata would be written before or after the first by chance.
        save_file(tensors, str(partial), metadata={"format": "pt"})
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, json.dumps({"format_version": FORMAT_VERSION, **config}, indent=2) + "\n")


def read_section(folder: Path, key: str) -> dict[str, Any]:
    """A section of a weight folder's `config.json`. Raises CheckpointError: as `read_config`, or it is no section."""
    section = read_config(folder).get(key)
    if not isinstance(section, dict):
        raise CheckpointError(f"{shown(folder / CONFIG)}: {key} must be a section")
    return section


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a weight folder.

    Raises:
        CheckpointError: no such folder or file, not a JSON object, or of a newer format than this fpd knows.
    """
    path = bundled(folder / CONFIG)
    if not path.exists():
        raise CheckpointError(f"{folder} is not a weight folder: {path} does not exist")
    config = read_json(path, error=CheckpointError)
    version = config.get("format_version", FORMAT_VERSION)
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path}: format_version must be a whole number from 1 on, found {shown(repr(version))}")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by a newer fpd: its format_version is {version}, this one reads up to "
            f"{FORMAT_VERSION}; update fpd"
        )
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of a weight folder, in the stored dtype.

    Raises:
        CheckpointError: the file is absent or damaged.
    """
    path = bundled(folder / WEIGHTS)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; copy the weight file of {folder.name!r} there")
    open_regular(path, error=CheckpointError).close()
    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {shown(error)}") from None


def load_network(folder: Path, key: str, build: Callable[[Any], M]) -> M:
    """The network of a weight folder.

    Its outline is compared with the weights before anything is allocated: no config asks for more than its file holds.

    Args:
        key: the section of `config.json` that `build` turns into modules; called twice, once on the meta device.

    Raises:
        CheckpointError: the folder is absent, damaged, of another kind, or its weights do not fit its config.
        ConfigError: the section is wrong.
    """
    source, config = f"{folder / CONFIG}: {key}", read_config(folder)
    if not isinstance(config.get(key), dict):
        raise CheckpointError(f"{folder} is of another kind: {CONFIG} holds no section {key!r}")
    state = read_weights(folder)
    try:
        with torch.device("meta"):
            check_fit(build(config[key]), state, str(folder))
    except ValidationError as error:
        raise explain(error, source) from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    module = build(config[key])
    load_strict(module, state, str(folder))
    return module


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every tensor, cast to the module's dtype. Raises CheckpointError as `check_fit` does."""
    check_fit(module, state, source)
    own = module.state_dict()
    module.load_state_dict({name: state[name].to(own[name].dtype) for name in own})


def check_fit(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Compare names and shapes: no key may be missing, left over or of another shape.

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
        f"{len(found)} {what} ({', '.join(map(shown, found[:3]))}{', ...' if len(found) > 3 else ''})"
        for what, found in (("missing", missing), ("unexpected", extra), ("of wrong shape", shapes))
        if found
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems)}")


def cast(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors with floating-point ones in `dtype`."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
