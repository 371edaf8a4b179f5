"""Typed conditions: what an image is asked to show."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassCondition:
    """Class labels [B] int64."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice) -> "ClassCondition":
        return ClassCondition(self.labels[index])

    def to(self, device: torch.device | str) -> "ClassCondition":
        return ClassCondition(self.labels.to(device))

    def repeat_interleave(self, times: int) -> "ClassCondition":
        """Each condition `times` in a row: several drafts of one condition share a batch."""
        return ClassCondition(self.labels.repeat_interleave(times, dim=0))


Condition = ClassCondition
