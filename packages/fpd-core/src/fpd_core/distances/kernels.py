"""Kernels of distances r = |x - y|, as sums of positive definite or conditionally positive definite ones."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.config import Config, Number

Kernel = Literal["energy", "laplace"]
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)


class KernelConfig(Config):
    """A kernel with its bandwidths in units of the mean distance."""

    kernel: Kernel = Field(
        "energy", description="`energy` is -|x - y|, without a bandwidth; `laplace` is Σ_h exp(-|x - y| / h)."
    )
    bandwidths: tuple[Annotated[Number, Field(ge=1e-4, le=1e4)], ...] = Field(
        BANDWIDTHS, min_length=1, max_length=32, description="h of `laplace`, in mean pairwise distances."
    )

    @property
    def is_without_bandwidth(self) -> bool:
        return self.kernel == "energy"

    def check_bandwidths(self) -> None:
        """Raises ValueError: bandwidths for the kernel that has none."""
        if self.is_without_bandwidth and self.bandwidths != BANDWIDTHS:
            raise ValueError(
                f"distance.bandwidths are {self.bandwidths}, and kernel 'energy' has none; use kernel 'laplace'"
            )

    def of(self, distance: Tensor) -> Tensor:
        """k of distances in units of the mean one, any shape."""
        if self.is_without_bandwidth:
            return -distance
        return torch.stack([(distance / -h).exp() for h in self.bandwidths]).sum(0)
