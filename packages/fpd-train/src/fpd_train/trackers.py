"""Experiment trackers beside tensorboard: wandb and trackio, whose interface is wandb's. Extras of this package."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from fpd_core.config import ConfigError

TrackerName = Literal["wandb", "trackio"]


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Raises ConfigError: one is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(f"trackers names {name}, which is not installed: pip install 'fpd-train[{name}]'")


class Tracker:
    """One run in one tracker: project `fpd`, named as the run folder; a resumed run goes on where the tracker can.

    Where it sends what it hears is its own business, said by its own environment variables (WANDB_MODE=offline, ...).
    """

    def __init__(self, name: TrackerName, folder: Path, settings: Mapping[str, Any]) -> None:
        module = import_module(name)
        own = {"dir": str(folder), "id": folder.name} if name == "wandb" else {}
        self._run = module.init(project="fpd", name=folder.name, config=dict(settings), resume="allow", **own)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of one step, which grows from call to call."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Wait until everything is handed over."""
        self._run.finish()
