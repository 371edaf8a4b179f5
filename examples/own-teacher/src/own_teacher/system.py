"""A kind of system for comparisons: mosaics at random, what any teacher of mosaics must beat."""

from typing import Literal

import torch
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_eval.systems.kind import SystemKind
from fpd_eval.systems.system import GeneratingSystem, System
from own_teacher.teacher import CLASSES, PIXELS_PER_TOKEN


class MosaicKind(SystemKind):
    """The section of its JSON file: {"kind": "mosaic", "name": "random mosaics"}."""

    kind: Literal["mosaic"] = "mosaic"

    def load(self, device: torch.device) -> System:
        return Mosaics(self.name)


class Mosaics(GeneratingSystem):
    """Sixteen squares of random colours, whatever the class."""

    role, steps, network_evaluations, num_classes = "external", 1, 0, CLASSES
    fingerprint = "own_teacher.system.Mosaics 1"

    def __init__(self, name: str) -> None:
        self.name, self.settings = name, {}

    def images(self, condition: Condition, *, seed: int) -> Tensor:
        colours = torch.rand(len(condition), 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        return colours.repeat_interleave(PIXELS_PER_TOKEN, 2).repeat_interleave(PIXELS_PER_TOKEN, 3)
