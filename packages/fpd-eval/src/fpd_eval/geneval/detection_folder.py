"""Detections as files: what our detector found, and the way in for users who detect elsewhere.

`<root>/<index>/<image>.json` for `<index>/samples/<image>.png`:

    {"detections": {"bench": [{"box": [12, 40, 200, 180], "score": 0.97, "color": "red"}]}}

Classes bear GenEval's names. `color` is needed for boxes the prompt asks a colour of, unless `mask` is there (COCO's
uncompressed run lengths), from which the colour classifier finds it. `image_sha256` is optional.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, NonNegativeInt, ValidationError, model_validator

from fpd_core.config import Config, explain, nearest
from fpd_core.untrusted import read_json
from fpd_core.untrusted.limits import IMAGE_PIXELS
from fpd_eval.geneval.classes import CLASSES, COLORS
from fpd_eval.geneval.detector import Detection, Detections
from fpd_eval.geneval.layout import Sample, claim, read_claim, write_whole

IDENTITY = "detector.json"
Pixel = Annotated[float, Field(strict=True, ge=-(2**24), le=2**24)]


def _known(names: Sequence[str], what: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise nearest(name, list(names), what)
        return name

    return AfterValidator(check)


class RunLengths(Config):
    """COCO's uncompressed mask: lengths of runs down the columns, the first of background."""

    size: tuple[NonNegativeInt, NonNegativeInt] = Field(description="Height and width.")
    counts: tuple[NonNegativeInt, ...]

    @model_validator(mode="after")
    def _fill_the_picture(self) -> "RunLengths":
        if self.size[0] * self.size[1] > IMAGE_PIXELS:
            raise ValueError(f"a mask of {self.size[0]} x {self.size[1]} pixels has more than {IMAGE_PIXELS}")
        if sum(self.counts) != self.size[0] * self.size[1]:
            raise ValueError(f"runs cover {sum(self.counts)} pixels of {self.size[0]} x {self.size[1]}")
        return self

    def decode(self) -> np.ndarray:
        """bool [H, W]."""
        is_object = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(is_object, self.counts).reshape(self.size, order="F")


class StoredBox(Config):
    """One object."""

    box: tuple[Pixel, Pixel, Pixel, Pixel]
    score: Annotated[float, Field(strict=True, ge=0, le=1)]
    color: Annotated[str, _known(COLORS, "colour")] | None = None
    mask: RunLengths | None = None


class StoredImage(Config):
    """One file."""

    image_sha256: str | None = None
    detections: dict[Annotated[str, _known(CLASSES, "class")], tuple[StoredBox, ...]]


class DetectionFolder:
    """The files of one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sample: Sample) -> Path:
        return self.root / sample.key.with_suffix(".json")

    def image_sha256(self, sample: Sample) -> str | None:
        """Of the image that was looked at; None where the file is absent or does not say."""
        return self._read(sample).image_sha256 if self.path(sample).exists() else None

    def read(self, sample: Sample) -> Detections:
        """Raises ValueError: absent or damaged, or an unknown class or colour."""
        try:
            return {name: [_detection(box) for box in boxes] for name, boxes in self._read(sample).detections.items()}
        except ValueError as error:
            raise type(error)(f"{self.path(sample)}: {error}") from None

    def write(self, sample: Sample, detections: Detections, image_sha256: str) -> None:
        """Boxes, scores and known colours; masks are too large to keep."""
        stored = StoredImage(
            image_sha256=image_sha256,
            detections={
                name: tuple(StoredBox(box=found[:4], score=found.score, color=found.color) for found in boxes)
                for name, boxes in detections.items()
            },
        )
        write_whole(self.path(sample), stored.model_dump_json(exclude_none=True).encode())

    def identity(self) -> dict[str, Any] | None:
        """Which networks filled this folder; None where nobody noted it."""
        return read_claim(self.root / IDENTITY)

    def claim(self, identity: dict[str, Any]) -> None:
        """Note which networks fill this folder. Raises ValueError: others already do."""
        claim(self.root / IDENTITY, identity, grows=True)

    def _read(self, sample: Sample) -> StoredImage:
        path = self.path(sample)
        if not path.exists():
            raise ValueError(f"{path} does not exist: {sample.path} has no detections")
        try:
            return StoredImage.model_validate(read_json(path))
        except ValidationError as error:
            raise explain(error, str(path)) from None


def _detection(stored: StoredBox) -> Detection:
    return Detection(*stored.box, stored.score, stored.mask.decode() if stored.mask else None, stored.color)
