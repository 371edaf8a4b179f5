"""Checkpoints of a run: every engine and EMA under one step folder, the pointer written last."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import distributed as dist

from fpd_train.ema import Ema
from fpd_train.engine import Engine, barrier

LATEST = "latest"


class Checkpoints:
    """The checkpoint folder of a run. `save` and `restore` are collective."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def latest(self) -> int | None:
        """Step of the last complete checkpoint, or None.

        Raises:
            ValueError: the pointer names a folder that is gone.
        """
        pointer = self._folder / LATEST
        if not pointer.exists():
            return None
        name = pointer.read_text().strip()
        if not (self._folder / name / "state.json").exists():
            raise ValueError(f"{pointer} names {name}, which is missing or incomplete; put it back or delete {pointer}")
        return int(json.loads((self._folder / name / "state.json").read_text())["step"])

    def save(
        self, step: int, updates: Mapping[str, int], engines: Mapping[str, Engine], emas: Mapping[str, Ema]
    ) -> None:
        """Write step `step`; a kill at any moment leaves the previous checkpoint in force."""
        folder = self._at(step)
        if dist.get_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        barrier()
        for name, engine in engines.items():
            engine.save(folder / name)
        if dist.get_rank() == 0:
            for name, ema in emas.items():
                save_file(
                    {k: v.contiguous() for k, v in ema.module.state_dict().items()}, folder / f"{name}.ema.safetensors"
                )
            state = {"step": step, "updates": dict(updates), "world": dist.get_world_size()}
            (folder / "state.json").write_text(json.dumps(state))
        barrier()
        if dist.get_rank() == 0:
            self._point_to(folder)
            self._prune()

    def restore(self, step: int, engines: Mapping[str, Engine], emas: Mapping[str, Ema]) -> dict[str, int]:
        """Load step `step`; returns the number of applied updates by network.

        Raises:
            ValueError: another world size, or a damaged file.
        """
        folder = self._at(step)
        state = json.loads((folder / "state.json").read_text())
        if state["world"] != dist.get_world_size():
            raise ValueError(
                f"{folder} was written by {state['world']} ranks and this run has {dist.get_world_size()}; "
                f"start it with {state['world']}, or begin again in a new output folder"
            )
        for name, engine in engines.items():
            engine.load(folder / name)
            emas[name].module.load_state_dict(load_file(folder / f"{name}.ema.safetensors"))
        updates: dict[str, int] = state["updates"]
        return updates

    def _at(self, step: int) -> Path:
        return self._folder / f"step_{step:06d}"

    def _point_to(self, folder: Path) -> None:
        partial = self._folder / f"{LATEST}.partial"
        with partial.open("w") as file:
            file.write(folder.name)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._folder / LATEST)

    def _prune(self) -> None:
        for old in sorted(self._folder.glob("step_*"))[: -self._keep]:
            shutil.rmtree(old)
