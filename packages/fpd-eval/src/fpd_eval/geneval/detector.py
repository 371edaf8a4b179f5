"""What the judge needs from networks: boxes of COCO's classes, and colours of boxes."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image


class Detection(NamedTuple):
    """One object: a box in pixels of the image, x1 and y1 exclusive, and a score in [0, 1].

    `mask` is bool [H, W] at the size of the image; `color` one of the ten, where it is already known.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    mask: np.ndarray | None = None
    color: str | None = None


Detections = dict[str, list[Detection]]


class Detector(Protocol):
    """`identity` (JSON) says which network with which options; equal identities give equal boxes."""

    @property
    def identity(self) -> dict[str, Any]: ...

    def __call__(self, images: Sequence[Image.Image]) -> list[Detections]:
        """RGB images of any sizes -> detections by class name, in the detector's order."""
        ...


class ColorClassifier(Protocol):
    """`identity` as that of a detector."""

    @property
    def identity(self) -> dict[str, Any]: ...

    def __call__(self, image: Image.Image, name: str, found: Sequence[Detection]) -> list[str]:
        """One of the ten colours per object of class `name`. Every detection has a mask."""
        ...
