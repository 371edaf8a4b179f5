"""Images of the teacher's own sampler, drawn once for a run and kept in its folder as tokens."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from fpd_core import atomic
from fpd_core.conditioning import Condition
from fpd_core.config import Config, Whole
from fpd_core.lift import Lift
from fpd_core.reference import SamplesConfig, TeacherSamples
from fpd_core.sampling import sample
from fpd_core.teachers import AnyTeacherConfig
from fpd_core.teachers.teacher import Teacher
from fpd_core.untrusted import UntrustedError, read_json
from fpd_train.ranks import decided_by_rank_0
from fpd_train.seeds import seeded

CHUNK = 64  # images at a time
REFERENCE = "reference_samples.json"
Code = Annotated[Whole, Field(ge=0, lt=2**20)]


class SampleFile(Config):
    """The file in the run folder: tokens of the images, and all that decides them."""

    made_with: dict[str, Any]
    tokens: list[list[Code]]


def chunks(condition: Condition) -> list[Condition]:
    """The conditions, as many at a time as are decoded together."""
    return [condition[start : start + CHUNK] for start in range(0, len(condition), CHUNK)]


def kept_samples(
    path: Path | None,
    teacher: Teacher,
    teacher_config: AnyTeacherConfig,
    condition: Condition,
    steps: int,
    random: torch.Generator,
    asked: dict[str, Any],
) -> Tensor:
    """Tokens [N, L] of one image per condition: from the file where it holds these, else drawn, and written there.

    Args:
        path: the file; None draws without one.
        random: of the draw.
        asked: what decides conditions, steps and `random`.
    """
    made_with = _decisive(teacher, teacher_config) | asked
    tokens = None if path is None else _read(path, made_with, len(condition), teacher)
    if tokens is None:
        tokens = torch.cat([sample(teacher, part, steps, generator=random) for part in chunks(condition)])
        if path is not None:
            _keep(path, SampleFile(made_with=made_with, tokens=tokens.tolist()))
    return tokens


@torch.no_grad()
def reference_samples(
    config: SamplesConfig,
    teacher: Teacher,
    teacher_config: AnyTeacherConfig,
    lift: Lift,
    folder: Path | None,
    world: int,
) -> TeacherSamples:
    """The samples as features, with classes dealt in turn, or the family's example captions. Collective.

    Args:
        folder: of the run; None keeps nothing.

    Raises:
        ValueError: more steps than tokens.
    """
    if config.steps > teacher.seq_len:
        raise ValueError(f"samples.steps {config.steps} is above the {teacher.seq_len} tokens")
    classes, prompts = teacher.num_classes, teacher.example_prompts
    turns = torch.arange(config.count, device=teacher.device) % (classes or len(prompts))
    condition = teacher.condition(turns if classes else [prompts[turn] for turn in turns.tolist()])

    def drawn() -> Tensor:
        random = seeded("reference samples", config.seed, device=teacher.device)
        path = None if folder is None else folder / REFERENCE
        asked = {"samples": config.model_dump(mode="json")}
        return kept_samples(path, teacher, teacher_config, condition, config.steps, random, asked)

    tokens = (decided_by_rank_0(lambda: drawn().cpu()) if world > 1 else drawn()).to(teacher.device)
    parts = zip(chunks(condition), tokens.split(CHUNK), strict=True)
    features = [lift(teacher.codebook[codes], part) for part, codes in parts]
    return TeacherSamples([torch.cat(block) for block in zip(*features, strict=True)], turns)


def _decisive(teacher: Teacher, teacher_config: AnyTeacherConfig) -> dict[str, Any]:
    files = {str(path): path.stat() for path in teacher_config.weight_files() if path.exists()}
    return {
        "teacher": teacher_config.model_dump(mode="json"),
        "files": {path: [found.st_size, found.st_mtime_ns] for path, found in files.items()},
        "sampler": teacher.default_sampler,
        "sampling": teacher.sampler.model_dump(mode="json"),
        "device": teacher.device.type,
    }


def _read(path: Path, made_with: dict[str, Any], count: int, teacher: Teacher) -> Tensor | None:
    try:
        found = SampleFile.model_validate(read_json(path))
    except (UntrustedError, ValidationError):  # absent or damaged: drawn again, to the same tokens
        return None
    if found.made_with != made_with or [len(row) for row in found.tokens] != [teacher.seq_len] * count:
        return None
    tokens = torch.tensor(found.tokens, device=teacher.device)
    return tokens if int(tokens.max()) < teacher.codebook_size else None


def _keep(path: Path, samples: SampleFile) -> None:
    try:
        atomic.write_text(path, json.dumps(samples.model_dump()) + "\n")
    except OSError as error:
        if not atomic.is_disk_full(error):  # a cache is no reason to end a run; logs and checkpoints say it is full
            raise
