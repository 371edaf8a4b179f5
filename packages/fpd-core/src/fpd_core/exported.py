"""How a student lies on disk: config, weights and card, and what diffusers reads beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fpd_core.checkpoints import cast, save_folder
from fpd_core.generation_config import GenerationConfig
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
