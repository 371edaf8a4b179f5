"""How a student lies on disk: config, weights and card, and what diffusers reads beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from fpd_core.checkpoints import CONFIG, CheckpointError, cast, read_config, save_folder
from fpd_core.config import explain
from fpd_core.generation_config import GenerationConfig, TrainingConfig
from fpd_core.pipeline_files import write_pipeline
from fpd_core.teachers import Teacher

TRAINING = "training"  # the section of `TrainingConfig`


def save_generator(
    folder: Path,
    teacher: Teacher,
    network: nn.Module,
    generation: GenerationConfig,
    teacher_config: Mapping[str, Any],
    card: str,
    dtype: torch.dtype = torch.float16,
    encoders: Sequence[str] | None = None,
) -> None:
    """Write a student as a folder that opens anywhere: its own network plus the family's frozen parts.

    `pipeline_files` for diffusers lie beside them, which `load_generator` neither needs nor reads.

    Args:
        encoders: see `TrainingConfig`; None notes nothing.
    """
    frozen = {name: value for name, value in teacher.state_dict().items() if not name.startswith("network.")}
    student = {f"network.{name}": value for name, value in network.state_dict().items()}
    config = {
        "architecture": teacher.with_network(network).architecture(),
        "generation": generation.model_dump(),
        "teacher": dict(teacher_config),
    } | ({} if encoders is None else {TRAINING: {"encoders": sorted(set(encoders))}})
    write_pipeline(folder, generation, teacher.mask_id)
    save_folder(folder, config, cast(student | frozen, dtype), card)


def read_sections(folder: Path) -> tuple[GenerationConfig, dict[str, Any], tuple[str, ...] | None]:
    """(how it is sampled, the section of its teacher, `TrainingConfig.encoders` or None) of a student's `config.json`.

    Raises:
        CheckpointError: the folder is absent, damaged or of another kind.
        ConfigError: settings that make no sense.
    """
    config = read_config(folder)
    missing = [key for key in ("architecture", "generation", "teacher") if key not in config]
    if missing:
        raise CheckpointError(f"{folder} is not a one-step generator: {CONFIG} lacks {', '.join(missing)}")
    if not isinstance(config["teacher"], dict):
        raise CheckpointError(f"{folder / CONFIG}: teacher must be a section, a config of the teacher")
    try:
        generation = GenerationConfig.model_validate(config["generation"])
    except ValidationError as error:
        raise explain(error, f"{folder / CONFIG}: generation") from None
    encoders = None
    if TRAINING in config:  # folders older than the note lack it
        try:
            encoders = TrainingConfig.model_validate(config[TRAINING]).encoders
        except ValidationError as error:
            raise explain(error, f"{folder / CONFIG}: {TRAINING}") from None
    return generation, config["teacher"], encoders
