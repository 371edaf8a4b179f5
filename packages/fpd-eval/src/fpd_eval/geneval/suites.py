"""Suites: which prompts are asked, and who looks at the images. A new one is a file and a line in `SUITES`."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fpd_core.plugins import Registry
from fpd_core.sections import one_of
from fpd_eval.geneval.detector import ColorClassifier, Detector
from fpd_eval.geneval.judge import JudgeOptions
from fpd_eval.geneval.preprocessing import Preprocessing
from fpd_eval.geneval.prompts import Record
from fpd_eval.geneval.self_check import KnownPicture, checked

_OWN: dict[str, "Suite | str"] = {
    "geneval": "fpd_eval.geneval.official:GENEVAL",
    "scenes": "fpd_eval.geneval.scenes:SCENES",
    "scenes-choose": "fpd_eval.geneval.scenes:CHOOSE",
    "scenes-report": "fpd_eval.geneval.scenes:REPORT",
}


@dataclass(frozen=True)
class Opening:
    """Where and with which files the networks of a suite are opened; None is their usual place.

    `accept_detector` lets one judge that fails its self-check; `preprocessing` is Mask2Former's.
    """

    device: torch.device
    batch_size: int
    detector_weights: Path | None = None
    clip_weights: Path | None = None
    accept_detector: bool = False
    preprocessing: Preprocessing = "mmdet-3.3"


@dataclass(frozen=True)
class Suite:
    """`detector` and `colors` open the networks; `known` is what a detector must find before it judges.

    Scores of two suites cannot be compared.
    """

    name: str
    prompts: Callable[[], list[Record]]
    detector: Callable[[Opening], Detector]
    colors: Callable[[Opening], ColorClassifier]
    known: KnownPicture
    options: JudgeOptions = field(default_factory=JudgeOptions)

    def checked_detector(self, opening: Opening) -> Detector:
        """The detector, after its self-check. Raises CheckpointError: it is absent, damaged or sees nothing."""
        return checked(self.detector(opening), self.known, accept=opening.accept_detector)

    def first(self, count: int | None) -> list[Record]:
        """The first `count` prompts of every task; all without a count."""
        seen, chosen = Counter[str](), list[Record]()
        for record in self.prompts():
            seen[record["tag"]] += 1
            if count is None or seen[record["tag"]] <= count:
                chosen.append(record)
        return chosen

    def sha256(self) -> str:
        """Of the records as JSON lines."""
        lines = "".join(json.dumps(record) + "\n" for record in self.prompts())
        return hashlib.sha256(lines.encode()).hexdigest()


SUITES = Registry("fpd.suites", "suite", _OWN, one_of(Suite))


def suite_called(name: str) -> Suite:
    """The suite called `name`. Raises ConfigError: there is none."""
    return SUITES.find(name)
