"""What `fpd-eval geneval` was asked for, and how it is done: images of every system, then their scores."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fpd_core.config import Config
from fpd_core.sampling import Sampler
from fpd_eval.geneval.colors import ClipColors
from fpd_eval.geneval.judge import JudgeOptions
from fpd_eval.geneval.mask2former import Mask2FormerDetector
from fpd_eval.geneval.painters import painters
from fpd_eval.geneval.runner import Judges, Outcome, evaluate, generate
from fpd_eval.machine import usable_device
from fpd_eval.progress import Track, silent
from fpd_eval.ranks import joined, local_device
from fpd_eval.weights import locate


class Request(Config):
    """One source of images, and how they are looked at."""

    ckpt: Path | None = Field(None, description="Student folder; makes the images.")
    images: Path | None = Field(None, description="Official layout, made elsewhere.")
    steps: tuple[PositiveInt, ...] = Field((), description="Also the student's teacher at these step counts.")
    sampler: Sampler | None = Field(None, description="Of the teacher.")
    guidance_scale: PositiveFloat | None = Field(None, description="Of the teacher; by default its family's.")
    samples: PositiveInt = Field(4, description="Images per prompt.")
    seed: int = Field(42, ge=0, description="Set anew before every prompt.")
    detections: Path | None = Field(None, description="Boxes found elsewhere.")
    detector_weights: Path | None = None
    clip_weights: Path | None = None
    options: JudgeOptions = JudgeOptions()
    allow_partial: bool = False
    batch_size: PositiveInt = Field(8, description="Images per pass of the detector.")
    device: str = "cpu"
    out: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Request":
        if (self.ckpt is None) == (self.images is None):
            raise ValueError("give either --ckpt, which makes the images, or --images")
        if self.images is not None and (self.steps or self.sampler or self.guidance_scale is not None):
            raise ValueError("--steps, --sampler and --guidance-scale belong to --ckpt; --images are made already")
        if self.detections is not None and self.images is None:
            raise ValueError("--detections belong to --images: boxes of images still to be made cannot exist")
        return self


def fulfil(request: Request, *, track: Track = silent) -> list[tuple[Path, Outcome]]:
    """(folder, outcome) of every system; under torchrun the ranks share images, and only the first returns outcomes.

    Raises:
        CheckpointError: weights are absent or damaged; the message says where they are published.
        ValueError: images are missing or damaged, or the student knows no prompts.
    """
    usable_device(request.device)
    with joined() as ranks:
        device = local_device(torch.device(request.device))
        judges = Judges(
            detector=cache(
                lambda: Mask2FormerDetector.load(
                    locate("mask2former", request.detector_weights), device=device, batch_size=request.batch_size
                )
            ),
            colors=cache(lambda: ClipColors.load(locate("clip_vitl14_openai", request.clip_weights), device=device)),
            options=request.options,
            detections=request.detections,
            batch_size=request.batch_size,
            track=track if ranks.is_main else silent,
            ranks=ranks,
        )
        outcomes = []
        for name, images, out in _image_folders(request, device, judges):
            outcome = evaluate(
                images, out, judges, name=name, samples=request.samples, allow_partial=request.allow_partial
            )
            outcomes.append((out, outcome))
        return [(out, outcome) for out, outcome in outcomes if outcome is not None]


def _image_folders(request: Request, device: torch.device, judges: Judges) -> Iterator[tuple[str, Path, Path]]:
    """(name, images, result folder) of every system, its images made when its turn comes."""
    if request.images is not None:
        images = request.images.resolve()
        yield images.name, images, request.out or images.with_name(f"{images.name}-geneval")
        return
    assert request.ckpt is not None
    place = request.out or request.ckpt.resolve().parent / "geneval"
    systems = painters(
        request.ckpt,
        teacher_steps=request.steps,
        sampler=request.sampler or "confidence",
        guidance_scale=request.guidance_scale,
        device=device,
    )
    for name, painter in systems:
        images = place / name / "images"
        generate(painter, images, samples=request.samples, seed=request.seed, track=judges.track, ranks=judges.ranks)
        yield name, images, place / name
