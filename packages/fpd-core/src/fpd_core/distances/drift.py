"""The published distance: the multi-bandwidth drift of `fpd_core.drift` (eqs. 6-7), one problem per map."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.distances.interface import Block, Distance, DistanceConfig, Scene, Settings
from fpd_core.drift import DriftLoss, drift_loss


class DriftConfig(DistanceConfig):
    """The drift. Its settings stand in the objective itself, where the paper's switches are."""

    name: Literal["drift"] = "drift"
    uses: ClassVar[tuple[str, ...]] = ("bandwidths", "weighting", "own_target", "normalisation")


class Drift(Distance):
    """Conditions are tied to their samples by the kernel: at a small h only the nearest count, and those share one."""

    def __init__(self, config: DriftConfig, settings: Settings, scene: Scene) -> None:
        super().__init__()
        self._settings = settings

    def forward(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        gather: bool = False,
    ) -> list[DriftLoss]:
        return [
            drift_loss(
                x,
                y,
                bandwidths=self._settings.bandwidths,
                weighting=self._settings.weighting,
                own_target=self._settings.own_target,
                normalisation=self._settings.normalisation,
                gather=gather,
            )
            for x, y in zip(features, targets, strict=True)
        ]

    def report(self, blocks: Sequence[Block], maps: Sequence[str]) -> dict[str, float]:
        found = [block for block in blocks if isinstance(block, DriftLoss)]
        rms = torch.stack([block.rms for block in found])
        report = {
            "rms": rms.mean().item(),
            "alignment": torch.stack([block.alignment for block in found]).mean().item(),
            "signal": torch.stack([block.signal for block in found]).mean().item(),
        }
        for name, values in zip(maps, rms.tolist(), strict=True):
            for bandwidth, value in zip(self._settings.bandwidths, values, strict=True):
                report[f"rms/{name}/h{bandwidth:g}"] = value
        return report
