"""Systems: whoever answers a plan with an image set."""

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_eval.images.image_set import ImageSet, to_uint8
from fpd_eval.images.plan import Plan

Role = Literal["teacher", "untrained", "student", "baseline", "external", "real"]
"""`baseline`: another method's generator on a family of fpd; `external`: made by other software; `real`: by none."""


class System(Protocol):
    """What a measurement sees of whoever makes images.

    `settings` are the sampling options, for the record. `fingerprint` is the hash of everything that decides the images
    of a plan: weights and settings, or the files; not the name. `network_evaluations` counts passes of one image
    through the transformer. `num_classes` is None where prompts are understood or the images are finished. `encoders`
    are the networks that its training's loss compared images with, None where nobody noted them.
    """

    name: str
    role: Role
    steps: int
    network_evaluations: int
    settings: dict[str, Any]
    num_classes: int | None
    is_finished: bool
    encoders: tuple[str, ...] | None

    @property
    def fingerprint(self) -> str: ...

    def image_set(self, plan: Plan) -> ImageSet[Tensor]:
        """The plan's images. Raises ValueError: this system has none for it."""
        ...

    def images(self, condition: Condition, *, seed: int) -> Tensor:
        """[B, 3, H, W] in [0, 1], a function of the condition and the seed. Raises ValueError: nothing can be drawn."""
        ...


class GeneratingSystem(ABC):
    """A system that draws its images when they are asked for."""

    name: str
    role: Role
    steps: int
    network_evaluations: int
    settings: dict[str, Any]
    fingerprint: str
    num_classes: int | None = None
    is_finished = False
    encoders: tuple[str, ...] | None = None

    @abstractmethod
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        """[B, 3, H, W] in [0, 1], a function of the condition and the seed alone."""

    def image_set(self, plan: Plan) -> ImageSet[Tensor]:
        """Every batch is drawn when it is read."""
        return ImageSet(
            title=f"{self.name}, {self.steps} step{'s' if self.steps > 1 else ''}",
            identity={"system": self.fingerprint, "plan": plan.model_dump()},
            count=plan.count,
            batch_size=plan.batch_size,
            batch=lambda start: self._draw(plan, start),
            labels=plan.labels,
        )

    def _draw(self, plan: Plan, start: int) -> Tensor:
        count = min(plan.batch_size, plan.count - start)
        return to_uint8(self.images(plan.condition(start, count), seed=plan.seed_of(start)), plan.rounding)
