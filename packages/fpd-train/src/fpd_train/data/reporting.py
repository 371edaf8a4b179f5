"""What a run says of its data, and whether a resumed run still has the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fpd_core import atomic
from fpd_core.config import Config, ConfigError, Name
from fpd_core.untrusted import read_json
from fpd_train.batch import Batch
from fpd_train.data.lanes import LaneStream
from fpd_train.data.reader import IndexedStream
from fpd_train.ranks import gather

DATA = "data.json"


class Identity(Config):
    """What `data.json` in a run folder says: which shards, and which of their samples, positions refer to."""

    index: Name


def same_data(stream: Iterator[Batch], folder: Path, start: int) -> None:
    """Note which data a new run has; a resumed one must have the same.

    Raises:
        ConfigError: shards have changed, come or gone since, so positions mean other samples.
    """
    if not isinstance(stream, IndexedStream | LaneStream):
        return
    path = folder / DATA
    if start == 0 or not path.exists():
        atomic.write_text(path, Identity(index=stream.identity).model_dump_json() + "\n")
    elif read_json(path).get("index") != stream.identity:
        raise ConfigError(
            f"{stream.tally.folder} no longer holds the samples that {folder} began with: shards have changed, come or "
            f"gone, so the order would be another; put them back, or begin again in a new output folder"
        )


def left_out(stream: Iterator[Batch]) -> list[str]:
    """What the run does without, in a line or none."""
    return stream.tally.report() if isinstance(stream, IndexedStream | LaneStream) else []


def bad_samples(stream: Iterator[Batch]) -> list[str]:
    """The same at the end, with what turned out on reading, on any rank. Collective."""
    if not isinstance(stream, IndexedStream | LaneStream):
        return []
    seen = {sample: kind for part in gather(stream.tally.seen) for sample, kind in part.items()}
    return replace(stream.tally, seen=seen).report()
