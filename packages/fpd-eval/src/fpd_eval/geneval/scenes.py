"""GenEval's six tasks in the bundled world: prompts that training never saw, looked at by the world's own judge."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from fpd_core.hashing import hash_tensors
from fpd_core.networks.scene_judge import SceneDetections, SceneJudge, load_scene_judge
from fpd_core.scenes import held_out
from fpd_core.scenes.captions import all_records
from fpd_core.scenes.layouts import IMAGE_SIZE
from fpd_eval.geneval.classes import TASKS
from fpd_eval.geneval.detector import ColorClassifier, Detection, Detections, Detector
from fpd_eval.geneval.files import scene_judge
from fpd_eval.geneval.prompts import Record, make_prompts
from fpd_eval.geneval.self_check import KnownObject, KnownPicture
from fpd_eval.geneval.suites import Opening, Suite

PER_TASK, SEED = 100, 0


@cache
def _records() -> tuple[Record, ...]:
    """Up to 100 records per task, all held out from training but those of single objects."""
    official = [record["prompt"] for record in make_prompts()]
    random, found = np.random.default_rng(SEED), list[Record]()
    for task in TASKS:
        records = [record for record in all_records(task) if task == "single_object" or held_out(record)]
        order = random.permutation(len(records)).tolist()
        # The official prompts of these objects come first; the rest is drawn.
        order.sort(key=lambda index: records[index]["prompt"] not in official)
        found += [records[index] for index in order[:PER_TASK]]
    return tuple(found)


def scene_prompts(half: int | None = None) -> list[Record]:
    """All records, or every other one of each task; single objects, none of which is held out, stand in both halves."""
    counts, chosen = Counter[str](), list[Record]()
    for record in _records():
        if half is None or record["tag"] == "single_object" or counts[record["tag"]] % 2 == half:
            chosen.append(dict(record))
        counts[record["tag"]] += 1
    return chosen


class SceneDetector:
    """The world's judge as a detector: it names colours itself, so no classifier is asked for them.

    Raises:
        ValueError: an image is not of the world's size.
    """

    def __init__(self, judge: SceneJudge, device: torch.device) -> None:
        self._judge, self._device = judge.to(device), device
        self.identity: dict[str, Any] = {"detector": "scene judge", "weights": hash_tensors(judge.state_dict())}

    def __call__(self, images: Sequence[Image.Image]) -> list[Detections]:
        for image in images:
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                raise ValueError(f"the scenes are {IMAGE_SIZE} x {IMAGE_SIZE} pixels, found one of {image.size}")
        pixels = torch.stack([pil_to_tensor(image) for image in images]).to(self._device).float() / 255
        return [_detections(found) for found in self._judge.detect(pixels)]


def _detections(found: SceneDetections) -> Detections:
    return {
        name: [
            Detection(*box, color=color) for box, color in zip(boxes, found.classify_colors(name, boxes), strict=True)
        ]
        for name, boxes in found.boxes.items()
    }


def _detector(opening: Opening) -> Detector:
    return SceneDetector(load_scene_judge(scene_judge(opening.detector_weights)), opening.device)


class _Named:
    """Stands where a colour classifier would: every detection has its colour already."""

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {}

    def __call__(self, image: Image.Image, name: str, found: Sequence[Detection]) -> list[str]:
        raise ValueError(f"the judge named no colour of {name!r}")


def _colors(opening: Opening) -> ColorClassifier:
    return _Named()


KNOWN = KnownPicture(
    "scenes.png",
    (
        *(KnownObject("car", (0, 0, 24, 24), "red"), KnownObject("cat", (40, 0, 64, 24))),
        *(KnownObject("cup", (0, 32, 24, 56), "blue"), KnownObject("clock", (40, 40, 64, 64))),
    ),
)
SCENES = Suite("scenes", scene_prompts, _detector, _colors, KNOWN)
# For settings chosen on one half of the prompts and reported on the other.
CHOOSE = Suite("scenes-choose", lambda: scene_prompts(0), _detector, _colors, KNOWN)
REPORT = Suite("scenes-report", lambda: scene_prompts(1), _detector, _colors, KNOWN)
