"""What `fpd-eval geneval` was asked for, and how it is done: images of every system, then their scores."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator

from fpd_core.checkpoints import read_section
from fpd_core.config import Config, Flag, Guidance, Seed, Size, Steps
from fpd_core.devices import device_called
from fpd_core.places import beside
from fpd_core.sampling import Sampler
from fpd_eval.geneval.files import require_judges
from fpd_eval.geneval.judge import judge_options
from fpd_eval.geneval.outcome import Outcome
from fpd_eval.geneval.preprocessing import Preprocessing
from fpd_eval.geneval.runner import Judges, evaluate, generate
from fpd_eval.geneval.suites import Opening, Suite, suite_called
from fpd_eval.runtime.progress import Track, silent
from fpd_eval.runtime.ranks import joined, local_device
from fpd_eval.systems import SystemKind, read_system
from fpd_eval.systems.student import StudentKind
from fpd_eval.systems.teacher import TeacherKind


class Request(Config):
    """One source of images, and how they are looked at."""

    suite: str = Field("geneval", description="Prompts and judge: `geneval`, or `scenes` of the bundled world.")
    ckpt: Path | None = Field(None, description="Student folder; makes the images.")
    systems: tuple[Path, ...] = Field((), description="JSON files of other systems that make images.")
    images: Path | None = Field(None, description="Official layout, made elsewhere.")
    steps: tuple[Steps, ...] = Field((), description="Also the student's teacher at these step counts.")
    sampler: Sampler | None = Field(None, description="Of the teacher.")
    guidance_scale: Guidance | None = Field(None, description="Of the teacher; by default its family's.")
    sampling: dict[str, Any] = Field({}, description="Other fields of the teacher's `SamplerConfig`.")
    per_task: Size | None = Field(None, description="Only the first prompts of every task; such scores are partial.")
    samples: Size = Field(4, description="Images per prompt.")
    seed: Seed = Field(42, description="Set anew before every prompt.")
    detections: Path | None = Field(None, description="Boxes found elsewhere.")
    detector_weights: Path | None = Field(None, description="Of the detector, if elsewhere.")
    clip_weights: Path | None = Field(None, description="Of the colour judge, if elsewhere.")
    preprocessing: Preprocessing | None = Field(None, description="How images reach Mask2Former; mmdet-3.3.")
    accept_detector: Flag = Field(False, description="Let a detector judge that fails its self-check.")
    options: dict[str, Any] = Field({}, description="Of the judge, in place of the suite's.")
    allow_partial: Flag = Field(False, description="Score incomplete images.")
    batch_size: Size = Field(8, description="Images per pass of the detector.")
    device: str = Field("auto", description="`auto` is a GPU where there is one.")
    out: Path | None = Field(None, description="Result folder; by default beside the source.")

    @model_validator(mode="after")
    def _one_source(self) -> "Request":
        if (self.ckpt is None and not self.systems) == (self.images is None):
            raise ValueError("give either --ckpt or --system, which make the images, or --images")
        if self.ckpt is None and self.steps:
            raise ValueError("--steps are those of the teacher of --ckpt")
        if not self.steps and (self.sampler or self.guidance_scale is not None or self.sampling):
            raise ValueError("--sampler, --guidance-scale and --sampling belong to --steps")
        if self.detections is not None and self.images is None:
            raise ValueError("--detections belong to --images: boxes of images still to be made cannot exist")
        if self.preprocessing is not None and self.suite != "geneval":
            raise ValueError(f"--preprocessing is that of Mask2Former; the suite {self.suite!r} has a judge of its own")
        return self


def fulfil(request: Request, *, track: Track = silent) -> list[tuple[Path, Outcome]]:
    """(folder, outcome) of every system; under torchrun the ranks share images, and only the first returns outcomes.

    Raises:
        CheckpointError: weights are absent or damaged; the message says where they are published.
        ValueError: images are missing or damaged, or the student knows no prompts.
    """
    suite = suite_called(request.suite)
    with joined() as ranks:
        device = local_device(device_called(request.device))
        opening = Opening(
            device,
            request.batch_size,
            request.detector_weights,
            request.clip_weights,
            accept_detector=request.accept_detector,
            preprocessing=request.preprocessing or "mmdet-3.3",
        )
        judges = Judges(
            detector=cache(lambda: suite.checked_detector(opening)),
            colors=cache(lambda: suite.colors(opening)),
            options=judge_options(suite.options.model_dump() | request.options),
            detections=request.detections,
            batch_size=request.batch_size,
            track=track if ranks.is_main else silent,
            ranks=ranks,
        )
        outcomes = []
        for name, images, out in _image_folders(request, suite, judges, device):
            outcome = evaluate(
                images,
                out,
                judges,
                name=name,
                samples=request.samples,
                allow_partial=request.allow_partial,
                suite=suite,
                per_task=request.per_task,
            )
            outcomes.append((out, outcome))
        return [(out, outcome) for out, outcome in outcomes if outcome is not None]


def _image_folders(
    request: Request, suite: Suite, judges: Judges, device: torch.device
) -> Iterator[tuple[str, Path, Path]]:
    """(name, images, result folder) of every system, its images made when its turn comes."""
    if request.images is not None:
        images = request.images.resolve()
        yield images.name, images, request.out or images.with_name(f"{images.name}-geneval")
        return
    beside = request.ckpt.resolve().parent if request.ckpt else Path()
    kinds = _kinds(request)
    if not any((request.out or beside / "geneval").glob("*/detections")):  # else the judges have been at work before
        require_judges(request.suite, request.detector_weights, request.clip_weights)
    for kind in kinds:
        place = (request.out or beside / "geneval") / (re.sub(r"[^\w.-]+", "-", kind.name).lstrip(".") or "-")
        system = kind.load(device)
        if system.num_classes is not None:
            raise ValueError(f"{kind.name} makes images of class labels; GenEval needs one that understands prompts")
        images = place / "images"
        generate(
            system,
            images,
            samples=request.samples,
            seed=request.seed,
            records=suite.first(request.per_task),
            checkpoints=kind.checkpoints(),
            track=judges.track,
            ranks=judges.ranks,
        )
        yield kind.name, images, place


def _kinds(request: Request) -> list[SystemKind]:
    """The student, its teacher at each step count, the systems of JSON files."""
    kinds: list[SystemKind] = []
    if request.ckpt is not None:
        kinds.append(StudentKind(name="student", folder=request.ckpt))
        teacher = beside(read_section(request.ckpt, "teacher"), request.ckpt)
        kinds += [
            TeacherKind(
                name=f"teacher-{steps}",
                teacher=teacher,
                steps=steps,
                sampler=request.sampler,
                guidance_scale=request.guidance_scale,
                sampling=request.sampling,
            )
            for steps in sorted(set(request.steps))
        ]
    return kinds + [read_system(path) for path in request.systems]
