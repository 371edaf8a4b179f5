"""Folders of shards that a killed command goes on with: its settings come first, `sizes.json` last."""

import json
from pathlib import Path
from typing import Any

from fpd_core import atomic
from fpd_core.untrusted import UntrustedError, read_json
from fpd_train.data.places import SIZES
from fpd_train.errors import DataError


def begin(folder: Path, name: str, settings: dict[str, Any], what: str) -> None:
    """Keep `settings` (JSON values) as file `name` in a new folder, or see that a begun one has the same.

    Raises:
        DataError: the folder holds something else, or `what` of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    atomic.remove_partials(folder)
    path = folder / name
    if not path.exists():
        if any(folder.iterdir()):
            raise DataError(f"{folder} is not empty and holds no {name}; remove it or choose another --out")
        atomic.write_text(path, json.dumps(settings, indent=1) + "\n")
        return
    try:
        earlier = read_json(path)
    except UntrustedError as error:
        raise DataError(f"{error}; remove {folder} or choose another --out") from None
    changed = [key for key in settings if earlier.get(key) != settings[key]]
    if changed:
        raise DataError(f"{folder} holds {what} of other settings ({', '.join(changed)}); choose another --out")


def finish(folder: Path, sizes: dict[str, int]) -> None:
    """The samples of each shard, without which `require_finished` refuses the folder."""
    atomic.write_text(folder / SIZES, json.dumps(sizes, indent=1) + "\n")


def require_finished(folder: str, name: str, command: str) -> None:
    """Raises DataError: `command` began the folder and has not finished it."""
    if (Path(folder) / name).exists() and not (Path(folder) / SIZES).exists():
        raise DataError(f"{folder}/{SIZES} does not exist: `{command}` has not finished; run it again")
