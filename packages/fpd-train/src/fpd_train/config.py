"""The typed configuration of a run: one JSON file, dotted overrides, a schema, a resolved copy in the run folder."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from fpd_core.config import Config, ConfigError, explain
from fpd_train.data import DataConfig
from fpd_train.ema import EmaConfig
from fpd_train.engine_config import EngineConfig, OptimizerConfig
from fpd_train.methods import MethodConfig

RESOLVED = "config.json"


class TrainConfig(Config):
    """One run. Everything that changes the result stands here; `output` and the cadences do not change it."""

    output: Path = Field(description="Run folder: config, logs, grids, checkpoints, the exported network.")
    seed: int = Field(0, ge=0)
    steps: PositiveInt = Field(description="Optimizer steps.")
    micro_batch: PositiveInt = Field(32, description="Images per rank and forward pass.")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    method: MethodConfig
    data: DataConfig
    validation: DataConfig | None = Field(None, description="Source for the quality measured at the end.")
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    ema: EmaConfig = EmaConfig()
    log_every: PositiveInt = Field(10, description="Steps between lines of metrics.jsonl.")
    sample_every: PositiveInt = Field(100, description="Steps between sample grids.")
    save_every: PositiveInt = Field(100, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = 2
    on_disk_full: Literal["stop", "continue"] = Field(
        "stop", description="`continue` does without a checkpoint, picture or log line that does not fit."
    )
    watchdog_seconds: float = Field(
        600, gt=0, allow_inf_nan=False, description="A rank that hangs at one place for so long ends the job."
    )
    resume: Literal["auto", "never"] = Field(
        "auto", description="`never` refuses a run folder that holds a checkpoint."
    )

    @model_validator(mode="after")
    def _sections_agree(self) -> "TrainConfig":
        drafts: int = getattr(self.method, "drafts_per_condition", 1)
        if self.micro_batch % drafts:
            raise ValueError(f"micro_batch {self.micro_batch} is not a multiple of drafts_per_condition {drafts}")
        return self


def load_config(path: Path, overrides: list[str] = []) -> TrainConfig:  # noqa: B006  (never mutated)
    """Read a run's JSON file and apply `a.b=c` overrides; c is JSON where it parses, else a string.

    Raises:
        ConfigError: the file is absent or not JSON, a key is unknown or a value invalid; names the place.
    """
    try:
        tree = json.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"config {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"config {path} is not valid JSON: {error}") from None
    for override in overrides:
        _apply(tree, override)
    return parse(tree, str(path))


def parse(tree: dict[str, Any], source: str) -> TrainConfig:
    """Validate a configuration tree. Raises ConfigError with one line per problem."""
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        raise explain(error, source) from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r} is not of the form section.key=value")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a section")
        node = child
    try:
        node[last] = json.loads(text)
    except json.JSONDecodeError:
        node[last] = text
