"""Plans: which images a system makes. Image i depends on plan and system alone, not on ranks or resumes."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.conditioning import ClassCondition, Condition, PromptCondition
from fpd_core.config import Amount, Classes, Config, Flag, Seed, Size
from fpd_eval.images.image_set import Rounding


def batch_seed(seed: int, start: int) -> int:
    """Seed of the batch whose first image is `start`: any batch can be made without those before it."""
    return int(np.random.SeedSequence([seed, start]).generate_state(1)[0])


class Plan(Config, ABC):
    """What a system answers with an image set."""

    batch_size: Size = Field(description="Images per call; other batches draw other images.")
    seed: Seed = Field(0, description="Every batch draws from (seed, index of its first image).")
    rounding: Rounding = Field("half_even", description="How 255 x becomes an integer, before clipping to [0, 255].")

    @property
    @abstractmethod
    def count(self) -> int: ...

    @property
    def labels(self) -> Tensor | None:
        """Classes [N]; None for prompts."""
        return None

    @abstractmethod
    def condition(self, start: int, count: int) -> Condition:
        """The conditions of images `start` to `start + count`."""

    def seed_of(self, start: int) -> int:
        """Of the batch whose first image is `start`."""
        return batch_seed(self.seed, start)


class ClassPlan(Plan):
    """Classes in turn."""

    num_images: Amount
    num_classes: Classes = Field(description="Image i shows class i mod this.")

    @model_validator(mode="after")
    def _balanced(self) -> "ClassPlan":
        if self.num_images % self.num_classes:
            raise ValueError(f"num_images must be a multiple of the {self.num_classes} classes, got {self.num_images}")
        return self

    @property
    def count(self) -> int:
        return self.num_images

    @property
    def labels(self) -> Tensor:
        return self.condition(0, self.num_images).labels

    def condition(self, start: int, count: int) -> ClassCondition:
        return ClassCondition(torch.arange(start, start + count) % self.num_classes)


class PromptPlan(Plan):
    """One image per prompt."""

    prompts: tuple[str, ...]
    reseed: Flag = Field(False, description="Every batch starts from `seed` itself, as GenEval's programs do it.")

    @property
    def count(self) -> int:
        return len(self.prompts)

    def condition(self, start: int, count: int) -> PromptCondition:
        return PromptCondition(self.prompts[start : start + count])

    def seed_of(self, start: int) -> int:
        return self.seed if self.reseed else super().seed_of(start)
