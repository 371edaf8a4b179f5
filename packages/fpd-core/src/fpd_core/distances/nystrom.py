"""Squared maximum mean discrepancy through a frozen feature map: k(x, x') is replaced by φ(x)·φ(x').

φ(x) = K_mm^(-1/2) k(m, x) for landmarks m (Williams and Seeger 2001, Using the Nyström method to speed up kernel
machines): exact where x or x' is a landmark. A mean of k is then a product of two mean embeddings, which can be
averaged over steps.
"""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.config import Seed, Share, Size
from fpd_core.distances.interface import Conditions, DistanceConfig, MapDistance, Scene, Settings, distances
from fpd_core.distances.kernels import KernelConfig
from fpd_core.drift import SCALE_FLOOR, OwnTarget

RANK_FLOOR = 1e-10  # of the largest eigenvalue of K_mm: what is below is rounding, and its root would be noise


class NystromConfig(KernelConfig, DistanceConfig):
    """An MMD whose landmarks are samples of the teacher."""

    name: Literal["nystrom"] = "nystrom"
    landmarks: Size = Field(128, description="Samples of the teacher that span the feature map; drawn once.")
    seed: Seed = Field(0, description="Of that draw.")
    conditions: Conditions = Field(
        "separate", description="`separate` is a problem per condition; `pooled` compares all together."
    )
    decay: Share = Field(
        0.0, description="Of the two mean embeddings over steps, each condition's when it is seen; 0 forgets."
    )
    uses: ClassVar[tuple[str, ...]] = ("own_target",)

    @model_validator(mode="after")
    def _has_bandwidths(self) -> Self:
        self.check_bandwidths()
        return self

    @property
    def needs_several_drafts(self) -> bool:
        return self.conditions == "separate"

    @property
    def remembers(self) -> bool:
        return self.decay > 0

    @property
    def needs_samples(self) -> bool:
        return True


class FeatureMap(torch.nn.Module):
    """φ of every cell. Frozen: a function of the landmarks [m, F, D].

    -|x - y| is not positive definite, but |x - o| + |y - o| - |x - y| is, for the mean landmark o, and has the same
    MMD (Sejdinovic et al. 2013, arXiv:1207.6076).
    """

    landmarks: Tensor
    middle: Tensor
    root: Tensor
    scale: Tensor

    def __init__(self, landmarks: Tensor, kernel: KernelConfig) -> None:
        super().__init__()
        self._kernel = kernel
        points = landmarks.double().transpose(0, 1)
        middle = points.mean(1, keepdim=True)
        points = points - middle
        between = distances(points, points)
        # Not part of checkpoints: made again from the same samples.
        self.register_buffer("middle", middle, persistent=False)
        self.register_buffer("landmarks", points, persistent=False)
        self.register_buffer("scale", between.mean().clamp_min(SCALE_FLOOR), persistent=False)
        values, vectors = torch.linalg.eigh(self._kernel_of(points))
        kept = values > RANK_FLOOR * values.amax(1, keepdim=True)
        powers = torch.where(kept, values, torch.ones_like(values)).rsqrt() * kept
        self.register_buffer("root", (vectors * powers[:, None]) @ vectors.mT, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, F, D] -> [F, N, m] float64."""
        return self._kernel_of(x.double().transpose(0, 1) - self.middle) @ self.root

    def _kernel_of(self, points: Tensor) -> Tensor:
        """k [F, N, m] of moved points [F, N, D] with the landmarks."""
        across = self._kernel.of(distances(points, self.landmarks) / self.scale)
        if not self._kernel.is_without_bandwidth:
            return across
        origin = torch.zeros_like(points[:, :1])
        to_points, to_landmarks = (
            self._kernel.of(distances(side, origin) / self.scale) for side in (points, self.landmarks)
        )
        return across - to_points - to_landmarks.mT


class Nystrom(MapDistance):
    """Σ over conditions of the squared distance of mean embeddings, weighted as their pairs are in an exact MMD.

    Its buffers are the differences [groups, F, m] of the two averaged embeddings of each map and how often each group
    was seen.
    """

    def __init__(self, config: NystromConfig, settings: Settings, scene: Scene) -> None:
        super().__init__()
        if config.landmarks > min(len(sample) for sample in scene.samples):
            raise ValueError(
                f"distance.landmarks {config.landmarks} is above the {len(scene.samples[0])} samples of the teacher; "
                "raise samples.count"
            )
        if config.decay and config.conditions == "separate" and scene.num_classes is None:
            raise ValueError("distance.decay needs classes, which come again; with captions use conditions 'pooled'")
        self._config, self._own_target = config, settings.own_target
        order = torch.randperm(len(scene.samples[0]), generator=torch.Generator().manual_seed(config.seed))
        chosen = order[: config.landmarks]
        self.maps = torch.nn.ModuleList(FeatureMap(samples[chosen], config) for samples in scene.samples)
        groups = (scene.num_classes or 0) if config.conditions == "separate" else 1
        if config.decay:
            for index, (cells, _) in enumerate(scene.maps):
                past = torch.zeros(groups, cells, config.landmarks, dtype=torch.float64)
                self.register_buffer(f"past{index}", past)
                self.register_buffer(f"seen{index}", torch.zeros(groups, dtype=torch.float64))

    def measure(self, index: int, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        feature_map = self.maps[index]
        x, y = feature_map(x), feature_map(y)
        if self._config.conditions == "pooled":
            rows = torch.zeros_like(rows)
        labels, groups, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
        pairs = (counts * (counts - 1)).double()
        if not pairs.sum() > 0:
            raise ValueError(
                "no two samples of this batch have one condition, so the distance compares nothing; "
                "set drafts_per_condition to 2 or more, or conditions to 'pooled'"
            )
        member = torch.nn.functional.one_hot(groups).double()  # [B, groups here]
        now = _means(x - y, member)
        square = embedded(x, y, member, own_target=self._own_target)
        loss = value = square
        if self._config.decay:
            share, past = self._step(index, labels[:, 0].long(), now)
            rest = 1 - share
            value = rest**2 * past.square().sum(2) + 2 * rest * share * (past * now).sum(2) + share**2 * square
            loss = value / share  # what is past has no gradient: the force does not shrink with this batch's share
        portion = pairs[:, None] / (pairs.sum() * x.shape[0])
        return (loss * portion).sum(), {"mmd": (value * portion).sum(), "scale": feature_map.scale}

    @torch.no_grad()
    def _step(self, index: int, labels: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """This batch's share [groups here, 1] of each average and the past one [groups here, F, m]; then moves on."""
        past, seen = self.get_buffer(f"past{index}"), self.get_buffer(f"seen{index}")
        before = past[labels]
        share = (1 / (seen[labels] + 1)).clamp_min(1 - self._config.decay)[:, None]
        if now.isfinite().all():  # a step that will be skipped leaves nothing behind
            past[labels] = before + share[..., None] * (now - before)
            seen[labels] += 1
        return share, before


def embedded(x: Tensor, y: Tensor, member: Tensor, *, own_target: OwnTarget) -> Tensor:
    """Unbiased squared distance of mean embeddings [groups, F].

    No product is of a sample with itself, and with "mask" none with its own target.

    Args:
        x, y: φ of both sides, [F, B, m].
        member: [B, groups], 1 where a sample belongs. A group of one has 0.
    """
    count = member.sum(0)[:, None]
    pairs = (count * (count - 1)).clamp_min(1)

    def between(a: Tensor, b: Tensor) -> Tensor:
        """Σ_{i≠j} a_i·b_j in each group."""
        own = (a * b).sum(2) @ member
        return (_sums(a, member) * _sums(b, member)).sum(2) - own.mT

    across = between(x, y) / pairs if own_target == "mask" else (_means(x, member) * _means(y, member)).sum(2)
    return (between(x, x) + between(y, y)) / pairs - 2 * across * (count > 1)


def _sums(embeddings: Tensor, member: Tensor) -> Tensor:
    """[F, B, m] -> [groups, F, m]."""
    return torch.einsum("fbm,bg->gfm", embeddings, member)


def _means(embeddings: Tensor, member: Tensor) -> Tensor:
    return _sums(embeddings, member) / member.sum(0)[:, None, None]
