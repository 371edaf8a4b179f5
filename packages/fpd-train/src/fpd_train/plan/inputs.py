"""What a step is planned with: the run's config, less all that would open files, and a batch."""

from collections.abc import Iterator
from typing import Any

from fpd_train.batch import Batch
from fpd_train.config import TrainConfig, parse
from fpd_train.config_tree import apply, synthetic_overrides
from fpd_train.data import open_stream


def without_files(config: TrainConfig) -> TrainConfig:
    """The same run with weights that need no file, noise for shards, and no student to start from."""
    tree = config.model_dump(mode="json")
    for change in synthetic_overrides(tree)[1:]:  # the first is the teacher's, which a bundled one has not
        if not change.startswith("method.lift"):
            apply(tree, change)
    for section in _sections(tree):
        if section.get("weights") == "public":
            section["weights"] = "synthetic"
    return parse(tree, "plan")


def _sections(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for one in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _sections(one)


def one_batch(config: TrainConfig) -> Batch:
    """A micro-batch of one rank."""
    count = config.micro_batch // getattr(config.method, "drafts_per_condition", 1)
    if getattr(config.method, "gan", None) is not None:
        count = config.micro_batch
    return next(open_stream(config.data, batch_size=count, seed=0, rank=0, world=1, position=0))
