"""GenEval's six tasks in the bundled world: prompts that training never saw, looked at by the world's own judge."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from fpd_core.networks.scene_judge import SceneDetections, SceneJudge, load_scene_judge
from fpd_core.scenes import held_out
from fpd_core.scenes.captions import all_records
from fpd_core.scenes.layouts import IMAGE_SIZE
from fpd_eval.extractors.weights import locate
from fpd_eval.geneval.classes import TASKS
from fpd_eval.geneval.detector import ColorClassifier, Detection, Detections, Detector
from fpd_eval.geneval.judge import JudgeOptions
from fpd_eval.geneval.prompts import Record, make_prompts
from fpd_eval.geneval.suites import Opening, Suite
from fpd_eval.runtime.cache import hash_tensors

PER_TASK, SEED = 100, 0


@cache
def _records() -> tuple[Record, ...]:
    official = [record["prompt"] for record in make_prompts()]
    random, found = np.random.default_rng(SEED), list[Record]()
    for task in TASKS:
        records = [record for record in all_records(task) if task == "single_object" or held_out(record)]
        order = random.permutation(len(records)).tolist()
        # The official prompts of these objects come first; the rest is drawn.
        order.sort(key=lambda index: records[index]["prompt"] not in official)
        found += [records[index] for index in order[:PER_TASK]]
    return tuple(found)


def scene_prompts() -> list[Record]:
    """Up to 100 records per task, all held out from training but those of single objects."""
    return [dict(record) for record in _records()]


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
    return SceneDetector(load_scene_judge(locate("scene_judge", opening.detector_weights)), opening.device)


class _Named:
    """Stands where a colour classifier would: every detection has its colour already."""

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {}

    def __call__(self, image: Image.Image, name: str, found: Sequence[Detection]) -> list[str]:
        raise ValueError(f"the judge named no colour of {name!r}")


def _colors(opening: Opening) -> ColorClassifier:
    return _Named()


# Objects of this world are found with confidence or not at all; 0.5 is where the judge counts exactly.
SCENES = Suite("scenes", scene_prompts, _detector, _colors, JudgeOptions(counting_threshold=0.5))
