"""Squared maximum mean discrepancy of two samples, exact: MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y).

(Gretton et al. 2012, A kernel two-sample test, lemma 6.) With k = -|x - y| it is the energy distance (Székely and Rizzo
2013, Energy statistics, section 3).
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.config import Number
from fpd_core.distances.interface import DistanceConfig, MapDistance, Scene, Settings, distances, same_condition
from fpd_core.distances.kernels import KernelConfig
from fpd_core.drift import SCALE_FLOOR, OwnTarget


class MmdConfig(KernelConfig, DistanceConfig):
    """Means of a kernel over all pairs but a sample with itself: unbiased."""

    name: Literal["mmd"] = "mmd"
    across: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.0,
        description="Weight of a pair of different conditions, by which a kernel of conditions multiplies that of "
        "features; 0 is a problem per condition, 1 pools them.",
    )
    uses: ClassVar[tuple[str, ...]] = ("own_target",)

    @model_validator(mode="after")
    def _has_bandwidths(self) -> Self:
        self.check_bandwidths()
        return self

    @property
    def needs_several_drafts(self) -> bool:
        return self.across == 0


class Mmd(MapDistance):
    """Σ over cells of the estimate, over their number, in units of the map's mean distance."""

    def __init__(self, config: MmdConfig, settings: Settings, scene: Scene) -> None:
        super().__init__()
        self._config, self._own_target = config, settings.own_target

    def measure(self, index: int, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        same = same_condition(rows).double()
        weights = same + self._config.across * (1 - same)
        value, scale = mmd(x, y, weights, self._config, own_target=self._own_target)
        return value, {"mmd": value, "scale": scale}


def mmd(x: Tensor, y: Tensor, weights: Tensor, kernel: KernelConfig, *, own_target: OwnTarget) -> tuple[Tensor, Tensor]:
    """Σ_ij w_ij [k(x_i, x_j) + k(y_i, y_j)] / Σ w - 2 Σ_ij w_ij k(x_i, y_j) / Σ w, mean over cells, and the scale.

    The first two sums leave out i = j, and with "mask" the third too: Y_i is an edit of X_i, and without the pair all
    three means have one law at the fixed point and the mean force is zero (`docs/method.md`, two biases).

    Args:
        x, y: [B, F, D] float64.
        weights: w [B, B], at least 0: of the pair's conditions.

    Raises:
        ValueError: no two samples have a weight.
    """
    others = weights.clone().fill_diagonal_(0)
    total = others.sum()
    if not total > 0:
        raise ValueError(
            "no two samples of this batch have one condition, so the distance compares nothing; "
            "set drafts_per_condition to 2 or more, or across above 0"
        )
    crossed = others if own_target == "mask" else weights
    x, y = _centred(x, y)
    seen = torch.cat([x, y], dim=1)
    distance = distances(seen, seen)
    scale = distance.detach().mean().clamp_min(SCALE_FLOOR)
    (xx, xy), (_, yy) = (half.chunk(2, dim=2) for half in kernel.of(distance / scale).chunk(2, dim=1))
    value = ((xx + yy) * others).sum((1, 2)) / total - 2 * (xy * crossed).sum((1, 2)) / crossed.sum()
    return value.mean(), scale


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """[B, F, D] -> [F, B, D], moved together: products of offsets cost digits."""
    middle = torch.cat([x, y]).detach().mean(0)
    return (x - middle).transpose(0, 1), (y - middle).transpose(0, 1)
