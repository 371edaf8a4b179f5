"""Fréchet distance of Gaussians with both samples' moments: |μ - ν|² + tr(Σ + T - 2 (T^(1/2) Σ T^(1/2))^(1/2)).

(Dowson and Landau 1982, The Fréchet distance between multivariate normal distributions.) In float64; the gradient goes
through the current batch alone.
"""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.config import Share, Size
from fpd_core.distances.interface import Conditions, DistanceConfig, MapDistance, Scene, Settings, same_condition
from fpd_core.drift import SCALE_FLOOR

RANK_FLOOR = 1e-12  # of the largest eigenvalue: what is below is rounding, and a covariance of few samples has many


class FrechetConfig(DistanceConfig):
    """Moments of the batch and of earlier ones."""

    name: Literal["frechet"] = "frechet"
    decay: Share = Field(
        0.9, description="Of the averaged moments over steps; 0 forgets, and then `queue` may remember."
    )
    queue: Size | None = Field(None, description="Samples of earlier steps that count as those of this one do.")
    conditions: Conditions = Field(
        "separate",
        description="`separate`: means are compared per condition, deviations from them in one covariance; "
        "`pooled`: mean and covariance of all together.",
    )
    uses: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _remembers_one_way(self) -> Self:
        if self.queue is not None and self.decay:
            raise ValueError(
                f"distance.queue {self.queue} and distance.decay {self.decay:g} are two ways to remember; "
                "set decay to 0 or leave out the queue"
            )
        return self

    @property
    def needs_several_drafts(self) -> bool:
        return self.conditions == "separate"

    @property
    def remembers(self) -> bool:
        return self.decay > 0 or self.queue is not None


class Frechet(MapDistance):
    """Sum over cells, in units of the reference's variance.

    Its buffers are, of each map and both sides [2, ...], the averaged moments or the queue of samples.
    """

    def __init__(self, config: FrechetConfig, settings: Settings, scene: Scene) -> None:
        super().__init__()
        self._config = config
        for index, (cells, channels) in enumerate(scene.maps if config.remembers else ()):
            if config.queue is None:
                shapes = {"mean": (2, cells, channels), "second": (2, cells, channels, channels), "odds": ()}
            else:
                shapes = {"queue": (2, cells, config.queue, channels)}
            for name, shape in (shapes | {"count": ()}).items():
                self.register_buffer(f"{name}{index}", torch.zeros(shape, dtype=torch.float64))

    def measure(self, index: int, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        means = torch.zeros((), dtype=torch.float64, device=x.device)
        is_separate = self._config.conditions == "separate"
        if is_separate:
            same = same_condition(rows).double()
            means = condition_means(x, y, same).mean()
            x, y = deviations(x, same), deviations(y, same)
        points = torch.stack([x.transpose(0, 1), y.transpose(0, 1)])  # [2, F, B, D]
        mean, second, odds, share = self._moments(index, points)
        covariance = second
        if not is_separate:
            covariance = (second - mean[..., None] * mean[..., None, :]) / (1 - odds)
            means = (mean[0] - mean[1]).square().sum(1).mean()
        scale = covariance[1].detach().diagonal(0, 1, 2).sum(1).mean().clamp_min(SCALE_FLOOR**2)
        spread = bures(covariance[0], covariance[1].detach()).mean()
        value = (means + spread) / scale
        # What is past has no gradient: the force does not shrink with this batch's share of the moments. The means per
        # condition are all of this batch.
        loss = (means + spread / share if is_separate else (means + spread) / share) / scale
        return loss, {"frechet": value, "means": means / scale, "spread": spread / scale}

    def _moments(self, index: int, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean [2, F, D], second moment [2, F, D, D], Σ of all samples' squared weights, this batch's share."""
        batch = points.shape[2]
        mean, second = points.mean(2), points.mT @ points / batch
        odds, share = points.new_tensor(1 / batch), points.new_ones(())
        if not self._config.remembers:
            return mean, second, odds, share
        count = self.get_buffer(f"count{index}")
        if self._config.queue is None:
            share = (1 / (count + 1)).clamp_min(1 - self._config.decay)
            past = [self.get_buffer(f"{name}{index}") for name in ("mean", "second", "odds")]
            mean, second = (old + share * (new - old) for old, new in zip(past, (mean, second), strict=False))
            odds = (1 - share) ** 2 * past[2] + share**2 * odds
            if points.isfinite().all():  # a step that will be skipped leaves nothing behind
                for old, new in zip(past, (mean, second, odds), strict=True):
                    old.copy_(new.detach())
                count += 1
            return mean, second, odds, share
        queue = self.get_buffer(f"queue{index}")
        whole = torch.cat([points, queue[:, :, : int(count)]], dim=2)
        if points.isfinite().all():
            kept = whole.detach()[:, :, : queue.shape[2]]
            queue[:, :, : kept.shape[2]] = kept
            count.fill_(kept.shape[2])
        number = whole.shape[2]
        return whole.mean(2), whole.mT @ whole / number, odds * batch / number, share * batch / number


def condition_means(x: Tensor, y: Tensor, same: Tensor) -> Tensor:
    """Unbiased Σ_c n_c |E x - E y|² / B over conditions, [F]: of products (x_i - y_i)·(x_j - y_j) with i ≠ j alone.

    Args:
        same: [B, B], 1 where conditions are equal.

    Raises:
        ValueError: a condition has one sample.
    """
    others = same.clone().fill_diagonal_(0)
    counts = others.sum(1)
    if not (counts > 0).all():
        raise ValueError(
            "a condition of this batch has one sample, which has no deviation from its mean; "
            "set drafts_per_condition to 2 or more, or conditions to 'pooled'"
        )
    apart = (x - y).transpose(0, 1)
    return ((apart @ apart.mT) * (others / counts[:, None])).sum((1, 2)) / len(x)


def deviations(x: Tensor, same: Tensor) -> Tensor:
    """[B, F, D] from the means of their conditions, scaled so that their second moment is an unbiased covariance."""
    counts = same.sum(1)
    middle = torch.einsum("ij,jfd->ifd", same / counts[:, None], x)
    return (x - middle) * (counts / (counts - 1)).sqrt()[:, None, None]


def bures(covariance: Tensor, reference: Tensor) -> Tensor:
    """tr(Σ + T - 2 (T^(1/2) Σ T^(1/2))^(1/2)) of [F, D, D] each -> [F], with the gradient by Σ.

    That is I - T^(1/2) M^(-1/2) T^(1/2) for M = T^(1/2) Σ T^(1/2). Where M is singular, its directions have no weight:
    of a Σ made of samples the gradient by these is bounded all the same (it is that of a nuclear norm), and zero there.
    """
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(reference)
        root = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT
        values, vectors = torch.linalg.eigh(root @ covariance @ root)
        kept = values > RANK_FLOOR * values.amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        roots = torch.where(kept, values, torch.ones_like(values)).sqrt() * kept
        inverse = torch.where(kept, 1 / roots, torch.zeros_like(roots))
        side = root @ vectors
        slope = torch.eye(side.shape[-1], dtype=side.dtype, device=side.device) - (side * inverse[:, None]) @ side.mT
        traces = covariance.diagonal(0, 1, 2).sum(1) + reference.diagonal(0, 1, 2).sum(1)
        value = traces - 2 * roots.sum(1)
    linear: Tensor = (covariance * slope).sum((1, 2))
    distance: Tensor = linear + (value - linear.detach())
    return distance
