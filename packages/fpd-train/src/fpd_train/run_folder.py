"""The run folder before the first step: who holds it, whose settings it has, where the run starts."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fpd_core import atomic
from fpd_core.config import Config, ConfigError, Steps
from fpd_core.untrusted import UntrustedError, read_json
from fpd_train.checkpointing import Checkpoints
from fpd_train.config import RESOLVED, TrainConfig, parse
from fpd_train.data.shards import OPERATIONAL as OPERATIONAL_OF_DATA
from fpd_train.lock import locked
from fpd_train.methods.interface import Report
from fpd_train.preflight import DONE
from fpd_train.ranks import decided_by_rank_0
from fpd_train.runlog import SAMPLES

# These may differ between a run and its continuation; everything else must not. A new number of steps trains on or ends
# earlier; a cosine schedule then follows the new horizon from there.
OPERATIONAL = {
    *("steps", "output", "device", "log_every", "sample_every", "save_every", "keep_checkpoints", "resume"),
    *("on_disk_full", "watchdog_seconds", "micro_batch", "trackers"),
}
# How a batch is spread and computed; the checkpoint says how large it is, and whether its ZeRO stage can go on.
SPREAD = {"zero_stage", "accumulation", "activation_checkpointing", "compile", "offload", "partition_frozen"}


def decisive(config: TrainConfig) -> dict[str, Any]:
    """What a run and its continuation share: all settings but the operational ones, how a batch is spread, and the
    monitor, which trains nothing."""
    reading = dict.fromkeys(OPERATIONAL_OF_DATA, True)
    left_out: Any = dict.fromkeys(OPERATIONAL, True)
    left_out |= {"method": {"monitor": True}, "engine": SPREAD, "data": reading}
    return config.model_dump(mode="json", exclude=left_out)


class Done(Config):
    """What `done.json` says of a finished run."""

    steps: Steps
    quality: Report


def write_done(folder: Path, done: Done) -> None:
    """The last file of a run. Raises OSError."""
    atomic.write_text(folder / DONE, done.model_dump_json() + "\n")


@contextmanager
def held_by_rank_0(folder: Path) -> Iterator[None]:
    """The run folder, made and locked by rank 0 before the ranks meet: a second run is told at once.

    Raises:
        ConfigError: another run holds it, or it cannot be written.
    """
    with ExitStack() as stack:
        if int(os.environ.get("RANK", "0")) == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder))
            except OSError as error:
                raise ConfigError(f"cannot write the run folder {folder}: {error.strerror}") from None
        yield


def starting_point(config: TrainConfig, checkpoints: Checkpoints, named: str | None) -> tuple[int | None, list[str]]:
    """The step to start from, and what the user should know; None for a run that is done. Collective.

    Writes the resolved configuration.

    Raises:
        ConfigError: the folder belongs to a run with other settings, or is beyond this one.
        ValueError: none of its checkpoints is whole.
        OSError: the folder cannot be written.
    """
    done = decided_by_rank_0(lambda: _same_run(config, checkpoints))
    start, remarks = checkpoints.choose(named)
    if config.resume == "never" and (start or done) is not None:
        step = done.steps if done else start
        raise ConfigError(f"{config.output} already holds a run at step {step}; choose another output or resume=auto")
    if done and named is None:
        if done.steps == config.steps and start in (None, config.steps):
            decided_by_rank_0(
                lambda: print(
                    f"{config.output} is done ({config.steps} steps); raise steps to train on, or choose another output"
                )
            )
            return None, []
        if start is None:
            raise ConfigError(f"{config.output} holds a finished run without checkpoints; choose another output")
    if start is not None and start > config.steps:
        raise ConfigError(f"{config.output} is already at step {start}, beyond steps={config.steps}")
    decided_by_rank_0(lambda: _begin(config))
    return start or 0, remarks


def _same_run(config: TrainConfig, checkpoints: Checkpoints) -> Done | None:
    """What the folder says of being done, after a look at whose settings it has."""
    done = _read_done(config.output / DONE)
    if done or checkpoints.exist():
        earlier, wanted = decisive(_read_settings(config.output / RESOLVED)), decisive(config)
        changed = [key for key in wanted if wanted[key] != earlier[key]]
        if changed:
            raise ConfigError(
                f"{config.output} holds a run with other settings ({', '.join(changed)}); choose another output "
                "(--set output=...) or give the settings it was started with"
            )
    return done


def _begin(config: TrainConfig) -> None:
    for folder in (config.output, config.output / SAMPLES):
        atomic.remove_partials(folder)
    (config.output / DONE).unlink(missing_ok=True)
    atomic.write_text(config.output / RESOLVED, json.dumps(config.model_dump(mode="json"), indent=2) + "\n")


def _read_done(path: Path) -> Done | None:
    try:
        return Done.model_validate(read_json(path))
    except (UntrustedError, ValidationError):  # a damaged one is written anew when the run has finished again
        return None


def _read_settings(path: Path) -> TrainConfig:
    """The earlier settings, with the defaults of fields that are newer than they."""
    try:
        return parse(read_json(path), str(path))
    except UntrustedError as error:
        raise ConfigError(
            f"{error}; it says whose settings the checkpoints beside it have: put it back, or choose another output"
        ) from None
