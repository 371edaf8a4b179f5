"""A picture with known objects, shown to a detector before it judges: broken weights must not give a table of zeros."""

from dataclasses import dataclass
from importlib.resources import files

from PIL import Image

from fpd_core.checkpoints import CheckpointError
from fpd_eval.geneval.detector import Detection, Detections, Detector
from fpd_eval.geneval.judge import iou

PICTURES = "pictures"


@dataclass(frozen=True)
class KnownObject:
    """A class of GenEval, a rough box in pixels, and the colour where the detector itself names it."""

    name: str
    box: tuple[float, float, float, float]
    color: str | None = None


@dataclass(frozen=True)
class KnownPicture:
    """A bundled picture and what every working detector finds in it.

    Attributes:
        least_score, least_overlap: of box and known box (intersection over union), low enough for any sound detector.
    """

    file: str
    objects: tuple[KnownObject, ...]
    least_score: float = 0.3
    least_overlap: float = 0.3

    def open(self) -> Image.Image:
        with (files("fpd_eval.geneval") / PICTURES / self.file).open("rb") as stream:
            return Image.open(stream).convert("RGB")


def checked(detector: Detector, known: KnownPicture) -> Detector:
    """The detector, after it found what the picture shows.

    Raises:
        CheckpointError: it did not; the message names the object and what was found instead.
    """
    (found,) = detector([known.open()])
    for wanted in known.objects:
        if not any(_matches(box, wanted, known) for box in found.get(wanted.name, ())):
            color = f"{wanted.color} " if wanted.color else ""
            raise CheckpointError(
                f"the detector fails its self-check: it finds no {color}{wanted.name} in the bundled picture "
                f"{known.file}, but {_listed(found)}; its weights are damaged or do not run right on this device, and "
                "nothing was judged"
            )
    return detector


def _matches(box: Detection, wanted: KnownObject, known: KnownPicture) -> bool:
    is_there = box.score > known.least_score and iou(box, wanted.box) > known.least_overlap
    return is_there and wanted.color in (None, box.color)


def _listed(found: Detections, shown: int = 3) -> str:
    """The surest detections in words."""
    boxes = sorted(((box.score, name) for name, several in found.items() for box in several), reverse=True)
    return ", ".join(f"{name} ({score:.2f})" for score, name in boxes[:shown]) or "nothing"
