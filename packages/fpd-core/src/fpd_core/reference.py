"""Samples of the teacher as what drafts are compared with, in place of their refinement."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import Condition, identity
from fpd_core.config import Config, Seed, Size


class SamplesConfig(Config):
    """Samples of the teacher's own sampler. A run draws them once, before its first step."""

    count: Size = Field(512, description="How many; classes have equal shares.")
    steps: Size = Field(16, description="Steps of the sampler.")
    seed: Seed = Field(0, description="Of conditions and images.")


@dataclass(frozen=True)
class TeacherSamples:
    """Features [N, F, D] of N samples, one tensor per map, and the samples' classes [N]."""

    features: Sequence[Tensor]
    labels: Tensor

    def draw(self, condition: Condition, generator: torch.Generator | None = None) -> list[Tensor]:
        """Y [B, F, D] of each map: for every condition a sample of its class, none twice while there are others.

        Raises:
            ValueError: there is no sample of a class.
        """
        wanted = identity(condition)[:, 0].long()
        chosen = torch.empty_like(wanted)
        for label in wanted.unique():
            places, pool = ((labels == label).nonzero()[:, 0] for labels in (wanted, self.labels))
            if not len(pool):
                raise ValueError(f"the {len(self.labels)} samples hold none of class {int(label)}; raise samples.count")
            order = torch.randperm(len(pool), generator=generator, device=pool.device)
            chosen[places] = pool[order.repeat(-(-len(places) // len(pool)))[: len(places)]]
        return [features[chosen] for features in self.features]
