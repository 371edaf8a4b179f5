"""Whether everything a run opens is there, looked at before DeepSpeed is imported and before anything is loaded."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from fpd_core.checkpoints import CONFIG
from fpd_core.config import CheckpointError, Config
from fpd_core.places import bundled
from fpd_core.preflight import require_writable
from fpd_core.weights import RequiredFile, require
from fpd_train.config import TrainConfig
from fpd_train.data import DataConfig
from fpd_train.data.places import is_local
from fpd_train.data.shards import Shards
from fpd_train.errors import DataError
from fpd_train.memory import estimate
from fpd_train.trackers import require_trackers

DONE = "done.json"  # the last file of a run


def check_first(config: TrainConfig) -> None:
    """Rank 0 looks whether all is there and says what the networks will take. A finished run needs nothing more.

    Raises:
        ValueError: as `require_ready`; or a tracker is not installed.
    """
    if os.environ.get("RANK", "0") != "0" or (config.output / DONE).is_file():
        return
    require_trackers(config.trackers)
    require_ready(config)
    for line in estimate(config):
        print(line, file=sys.stderr)


def require_ready(config: TrainConfig) -> None:
    """Published weights, this project's weight folders, shards, the run folder: in this order.

    Raises:
        CheckpointError: weights are absent; names every file.
        DataError: shards are absent.
        ValueError: the run folder cannot be written.
    """
    require(weight_files(config))
    for folder in weight_folders(config.method):
        if not (bundled(folder) / CONFIG).is_file():
            raise CheckpointError(f"{folder} is not a weight folder: {folder / CONFIG} does not exist")
    for source in sources(config):
        lack = missing_data(source)
        if lack:
            raise DataError(lack)
    require_writable(config.output)


def weight_files(config: TrainConfig) -> list[RequiredFile]:
    """Published files the run opens; none for methods that open none."""
    files = getattr(config.method, "required_files", None)
    found: list[RequiredFile] = files() if files else []
    return found


def weight_folders(section: Config) -> Iterator[Path]:
    """Folders of networks in a section and the sections in it: paths that do not end as files do. Sprites are none."""
    for name, value in section:
        if isinstance(value, Config):
            yield from weight_folders(value)
        elif (
            isinstance(value, Path) and name != "sprites" and not value.suffix and not getattr(section, "weights", None)
        ):
            yield value


def sources(config: TrainConfig) -> list[DataConfig]:
    """The run's data sources: training's, and validation's if there is one."""
    return [config.data] + ([config.validation] if config.validation is not None else [])


def missing_data(source: DataConfig) -> str | None:
    """What a data source lacks on this machine, in one sentence; None where nothing, or where it lies elsewhere."""
    if not isinstance(source, Shards) or not is_local(source.folder):
        return None
    try:
        source.shards()
    except DataError as error:
        return str(error)
    return None
