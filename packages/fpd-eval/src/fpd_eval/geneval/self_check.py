"""A picture with known objects, shown to a detector before it judges: broken weights must not give a table of zeros."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

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


@dataclass(frozen=True)
class Accepted:
    """A detector that failed its self-check and judges all the same; its identity, hence every record, says so."""

    detector: Detector
    missed: tuple[str, ...]

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.detector.identity, "self_check": f"failed and accepted: no {', no '.join(self.missed)}"}

    def __call__(self, images: Sequence[Image.Image]) -> list[Detections]:
        return self.detector(images)


def checked(detector: Detector, known: KnownPicture, *, accept: bool = False) -> Detector:
    """The detector, after it found what the picture shows.

    Args:
        accept: a detector that did not is warned of and returned, with the failure in its `identity`.

    Raises:
        CheckpointError: it did not; the message names what was expected and what was found.
    """
    (found,) = detector([known.open()])
    missed = [one for one in known.objects if not any(_matches(box, one, known) for box in found.get(one.name, ()))]
    if not missed:
        return detector
    said = (
        f"the detector fails its self-check on the bundled picture {known.file}: "
        + "; ".join(f"expected {_expected(one, known)}, found {_nearest(one, found)}" for one in missed)
        + f"; surest of all: {_listed(found)}"
    )
    if not accept:
        raise CheckpointError(
            f"{said}; its weights are damaged or do not run right on this device, and nothing was judged; "
            "--accept-detector judges all the same and is put on record"
        )
    warnings.warn(f"{said}; it was accepted all the same, which is on record", stacklevel=2)
    return Accepted(detector, tuple(_named(one) for one in missed))


def _matches(box: Detection, wanted: KnownObject, known: KnownPicture) -> bool:
    is_there = box.score > known.least_score and iou(box, wanted.box) > known.least_overlap
    return is_there and wanted.color in (None, box.color)


def _named(wanted: KnownObject) -> str:
    return f"{wanted.color} {wanted.name}" if wanted.color else wanted.name


def _expected(wanted: KnownObject, known: KnownPicture) -> str:
    place = ", ".join(f"{edge:g}" for edge in wanted.box)
    return (
        f"a {_named(wanted)} of score above {known.least_score:g} that overlaps ({place}) by more than "
        f"{known.least_overlap:g}"
    )


def _nearest(wanted: KnownObject, found: Detections) -> str:
    """The box of the wanted class that overlaps most, in words."""
    boxes = found.get(wanted.name, ())
    if not boxes:
        return f"no {wanted.name}"
    best = max(boxes, key=lambda box: (iou(box, wanted.box), box.score))
    color = f"{best.color} " if best.color else ""
    return f"a {color}{wanted.name} of score {best.score:.2f} that overlaps it by {iou(best, wanted.box):.2f}"


def _listed(found: Detections, shown: int = 3) -> str:
    """The surest detections in words."""
    boxes = sorted(((box.score, name) for name, several in found.items() for box in several), reverse=True)
    return ", ".join(f"{name} ({score:.2f})" for score, name in boxes[:shown]) or "nothing"
