"""The typed configuration of a run: one JSON file, dotted overrides, a schema, a resolved copy in the run folder."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from fpd_core.config import Config, ConfigError, Location, Number, Size, Steps, Whole, explain
from fpd_core.untrusted import UntrustedError, read_json, shown
from fpd_train.config_tree import read_tree
from fpd_train.data import DataConfig
from fpd_train.ema import EmaConfig
from fpd_train.engine_config import EngineConfig, OptimizerConfig
from fpd_train.methods import MethodConfig
from fpd_train.trackers import TrackerName

RESOLVED = "config.json"


# Folders of the system, whose files no run may replace.
_SYSTEM = tuple(map(Path, ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")))


def _own_folder(output: Path) -> Path:
    """A run writes, replaces and prunes files in its folder, so it gets one of its own."""
    whole, here = output.expanduser().resolve(), Path.cwd()
    if here.is_relative_to(whole) or Path.home().is_relative_to(whole):
        raise ValueError("Input should be a folder of the run's own, not the home or working folder or one above it")
    if any(whole.is_relative_to(folder) for folder in _SYSTEM):
        raise ValueError("Input should be a folder of the run's own, not one of the system")
    return output


class TrainConfig(Config):
    """One run. Everything that changes the result stands here; `output` and the cadences do not change it."""

    output: Annotated[Location, AfterValidator(_own_folder)] = Field(
        description="Run folder: config, logs, grids, checkpoints, the exported network."
    )
    seed: Whole = Field(0, ge=0, lt=2**63, description="Of all randomness of the run.")
    steps: Steps = Field(description="Optimizer steps.")
    micro_batch: Size = Field(32, description="Images per rank and forward pass.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a GPU where there is one.")
    method: MethodConfig = Field(description="What is trained, and how; `name` says which.")
    data: DataConfig = Field(description="Where conditions and images come from; `name` says which.")
    validation: DataConfig | None = Field(None, description="Source for the quality measured at the end.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW, its learning rate and gradient clipping.")
    engine: EngineConfig = Field(EngineConfig(), description="How DeepSpeed runs: ZeRO, precision, accumulation.")
    ema: EmaConfig = Field(EmaConfig(), description="The average of the weights, which is what is exported.")
    log_every: Steps = Field(10, description="Steps between lines of metrics.jsonl.")
    sample_every: Steps = Field(100, description="Steps between sample grids.")
    save_every: Steps = Field(100, description="Steps between checkpoints.")
    keep_checkpoints: Size = Field(2, description="Newest checkpoints that stay on disk.")
    trackers: tuple[TrackerName, ...] = Field(
        (), max_length=2, description="Experiment trackers that hear all numbers as well; each is an extra."
    )
    on_disk_full: Literal["stop", "continue"] = Field(
        "stop", description="`continue` does without a checkpoint, picture or log line that does not fit."
    )
    watchdog_seconds: Number = Field(
        600, gt=0, le=10**6, description="A rank that hangs at one place for so long ends the job."
    )
    resume: Literal["auto", "never"] = Field(
        "auto", description="`never` refuses a run folder that holds a checkpoint."
    )

    @model_validator(mode="after")
    def _sections_agree(self) -> "TrainConfig":
        drafts: int = getattr(self.method, "drafts_per_condition", 1)
        if self.micro_batch % drafts:
            raise ValueError(f"micro_batch {self.micro_batch} is not a multiple of drafts_per_condition {drafts}")
        if not self.ema.enabled and self.engine.zero_stage == 3:
            raise ValueError("ema.enabled false samples from the trained network, which zero_stage 3 keeps in pieces")
        if not self.optimizer.first_moment and self.engine.zero_stage == 0:
            raise ValueError("optimizer.first_moment false needs zero_stage 1 or more")
        if getattr(self.method, "teacher_precision", "float32") != "float32" and self.engine.precision == "float32":
            raise ValueError("method.teacher_precision bfloat16 needs engine.precision bfloat16")
        use: str | None = getattr(self.method, "image_use", None)
        if use is not None and not self.data.has_images:
            raise ValueError(
                f"{use}, and data.name {self.data.name!r} brings none; use image_shards, or scenes with has_images true"
            )
        return self


def load_config(path: Path, overrides: list[str] = []) -> TrainConfig:  # noqa: B006  (never mutated)
    """Read a run's JSON file and apply `a.b=c` overrides; c is JSON where it parses, else a string.

    Raises:
        ConfigError: the file is absent or not JSON, a key is unknown or a value invalid; names the place.
    """
    config = parse(read_tree(path, overrides), shown(path))
    _refuse_foreign(config.output)
    return config


def _refuse_foreign(output: Path) -> None:
    """Raises ConfigError: `output` holds the `config.json` of something else, a weight folder perhaps."""
    path = output / RESOLVED
    if not path.is_file():
        return
    try:
        found = read_json(path)
    except UntrustedError:
        return  # a damaged run's: resuming says what to do
    if not {"output", "steps", "method", "data"} <= found.keys():
        raise ConfigError(f"{output} is no run folder: no run wrote its {RESOLVED}; choose another output")


def parse(tree: dict[str, Any], source: str) -> TrainConfig:
    """Validate a configuration tree. Raises ConfigError with one line per problem."""
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        raise explain(error, source) from None
