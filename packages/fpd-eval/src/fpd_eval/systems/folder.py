"""A folder of images that somebody made elsewhere."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Location, Name, Steps
from fpd_eval.images.image_set import ImageSet
from fpd_eval.images.paired_files import find_images, open_all, open_rgb
from fpd_eval.images.plan import Plan
from fpd_eval.runtime.cache import hash_file, hash_json
from fpd_eval.systems.kind import ENCODERS, SystemKind
from fpd_eval.systems.system import Role, System


class FolderKind(SystemKind):
    """Image files directly in `folder`; their numbers, or else their names, are their order."""

    kind: Literal["folder"] = "folder"
    folder: Location = Field(description="Holds the image files directly.")
    steps: Steps = Field(1, description="Steps that whoever made them took.")
    network_evaluations: Steps | None = Field(None, description="Per image; by default as many as steps.")
    settings: dict[str, Any] = Field({}, description="How they were made, for the record.")
    encoders: tuple[Name, ...] | None = Field(None, description=ENCODERS)

    def load(self, device: torch.device) -> System:
        return FolderSystem(self)


class FolderSystem:
    """Stored images: nothing new can be drawn from a folder.

    Raises:
        ValueError: no such folder, or no image in it.
    """

    role: Role = "external"
    num_classes: int | None = None
    is_finished = True

    def __init__(self, config: FolderKind) -> None:
        self.name, self.steps, self.settings = config.name, config.steps, dict(config.settings)
        self.encoders = config.encoders
        self.network_evaluations = config.network_evaluations or config.steps
        self.folder, self._files = config.folder, list(find_images(config.folder).values())

    @cached_property
    def fingerprint(self) -> str:
        """The hash of every file, in order."""
        return hash_json([hash_file(path) for path in self._files])

    def images(self, condition: Condition, *, seed: int) -> Tensor:
        """Raises ValueError: a folder holds finished images only."""
        raise ValueError(_finished(self.folder))

    def image_set(self, plan: Plan) -> ImageSet[Tensor]:
        """The first images of the folder in the place of those the plan asks for.

        Raises:
            ValueError: it asks for prompts, or for more images; or, while reading, a file is damaged or of another size
                than the first.
        """
        if plan.labels is None:
            raise ValueError(_finished(self.folder))
        if len(self._files) < plan.count:
            raise ValueError(f"{self.folder} holds {len(self._files)} images, the protocol needs {plan.count}")
        return ImageSet(
            title=self.name,
            identity={"folder": self.fingerprint, "count": plan.count},
            count=plan.count,
            batch_size=plan.batch_size,
            batch=lambda start: self._read(start, min(start + plan.batch_size, plan.count)),
            labels=plan.labels,
        )

    @cached_property
    def _size(self) -> tuple[int, int]:
        return open_rgb(self._files[0]).size

    def _read(self, start: int, stop: int) -> Tensor:
        images = open_all(self._files[start:stop])
        for path, image in zip(self._files[start:stop], images, strict=True):
            if image.size != self._size:
                raise ValueError(f"{path} has {image.size} pixels, the first image has {self._size}; they must agree")
        return torch.stack([pil_to_tensor(image) for image in images])


def _finished(folder: Path) -> str:
    return f"{folder} holds finished images; it cannot make new ones for a condition"
