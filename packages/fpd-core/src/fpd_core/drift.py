"""Multi-bandwidth drift of student features toward the teacher's (eqs. 6-7).

FPD leaves the kernel's scale, the joint normalisation and the self pair open; the choices below follow the Drifting
method (arXiv 2602.04770) whose bandwidths FPD uses. `docs/method.md` lists them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

Weighting = Literal["plain", "cross"]
OwnTarget = Literal["keep", "mask"]
Normalisation = Literal["joint", "corrected", "sharp"]

SELF_DISTANCE = 100.0  # added to the normalised distance of a sample to itself: exp(-100/h) underflows
AFFINITY_FLOOR = 1e-6  # inside the root, so no affinity is below 1e-3
DISTANCE_FLOOR = 1e-4
SCALE_FLOOR = 1e-3
MEAN_SQUARE_FLOOR = 1e-8
SIGNAL_STRIDE = 5  # `signal` looks at every fifth cell, the diagonal of a 4x4 grid: a tenth of the drift's time at most


@dataclass(frozen=True)
class DriftLoss:
    """`loss`: scalar with grad. Detached: its `gradient` [B, F, D] by the student, and monitors: `rms` [bandwidths] is
    Z_h, `scale` the mean pairwise distance, `alignment` the mean cosine of the force Σ_h V_h/Z_h with Y - X, `signal`
    that between the forces of two halves of the batch, how much of a direction is not chance: Z_h scales both up."""

    loss: Tensor
    gradient: Tensor
    rms: Tensor
    scale: Tensor
    alignment: Tensor
    signal: Tensor


def drift_loss(
    student: Tensor,
    target: Tensor,
    *,
    bandwidths: Sequence[float] = (0.02, 0.05, 0.2),
    weighting: Weighting = "plain",
    own_target: OwnTarget = "keep",
    normalisation: Normalisation = "joint",
    gather: bool = False,
) -> DriftLoss:
    """Σ_h E |X - sg(X + V_h)|² / Z_h over samples, cells and channels (eq. 7); its value is Σ_h Z_h.

    Cells never interact: each of the F grid cells is its own particle problem over the batch.

    Args:
        student: X [B, F, D], with grad. Sample i is drawn to the targets and pushed from the other students.
        target: Y [B, F, D], treated as constant. Order within the batch is irrelevant.
        bandwidths: h, in units of the mean pairwise distance of this call, not of the features.
        weighting: "plain" takes the affinities as weights (eq. 6 as written); "cross" multiplies each side by the
            other side's total (the Drifting code), which cancels X_i out of the drift.
        own_target: "keep" lets sample i see its own refinement Y_i, as published. "mask" hides it, as the self pair is
            hidden: without that, a student at the fixed point is still pushed, because Y_i depends on X_i. Then only
            the other samples of a condition carry it, so every condition needs several.
        normalisation: "joint", the geometric mean of a softmax over all that a sample sees and one over all that see
            it; "corrected", the same without the O(1/n) bias of its means (`bias_corrected`); "sharp", each side by
            the kernel whose gradient it is (arXiv 2604.06333), so that V_h is a gradient.
        gather: let samples of all ranks take part. Collective: call on every rank with equal shapes.

    Returns:
        DriftLoss in float32, or float64 for float64 input.

    Raises:
        ValueError: shapes differ or are not [B, F, D], a bandwidth is not positive and finite, or "cross" weights are
            asked of the sharp normalisation.
    """
    check_normalisation(normalisation, weighting)
    if student.ndim != 3 or student.shape != target.shape:
        raise ValueError(f"student {tuple(student.shape)} and target {tuple(target.shape)} must be one shape [B, F, D]")
    if not bandwidths or not all(0 < h < math.inf for h in bandwidths):
        raise ValueError(f"bandwidths must be positive and finite, got {tuple(bandwidths)}")
    wide = torch.promote_types(student.dtype, torch.float32)
    # The meta device knows no autocast, and computes nothing.
    with torch.autocast("cpu" if student.is_meta else student.device.type, enabled=False):
        x = student.to(wide)
        here = (x.detach(), target.detach().to(wide))
        (all_x, all_y), first = _everyone(here) if gather else (here, 0)
        field = _field(all_x, all_y, bandwidths, weighting, own_target, normalisation)
        mine = field.weights[:, first : first + len(x)] * (-2 / (x.numel() * field.unit**2))
        gradient = (mine.to(wide) @ field.seen).transpose(0, 1)
        loss = field.loss.to(wide) + pulled_back(x, gradient)
    monitors = (value.to(wide) for value in (field.rms, field.scale, field.alignment, field.signal))
    return DriftLoss(loss, gradient, *monitors)


def check_normalisation(normalisation: Normalisation, weighting: Weighting) -> None:
    """Raises ValueError: "cross" weights with the sharp normalisation, which has weights of its own."""
    if normalisation == "sharp" and weighting == "cross":
        raise ValueError(
            "normalisation 'sharp' divides each side by its own density, so weighting 'cross' has nothing to weigh; "
            "use weighting 'plain'"
        )


def pulled_back(features: Tensor, gradient: Tensor) -> Tensor:
    """Zero, with `gradient` by `features`: eq. 7 is a square whose target is constant, and so is its gradient where it
    is evaluated."""
    linear = (features * gradient).sum()
    return linear - linear.detach()


@dataclass(frozen=True)
class _Field:
    """Σ_h V_h/Z_h of all samples, times `unit`, is `weights` [F, B, 2B] @ `seen` [F, 2B, D].

    Means over channels are taken through the products of all pairs in float64, so that no V_h is ever formed.
    """

    weights: Tensor
    seen: Tensor
    unit: Tensor
    loss: Tensor
    rms: Tensor
    scale: Tensor
    alignment: Tensor
    signal: Tensor


def _field(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float],
    weighting: Weighting,
    own_target: OwnTarget,
    normalisation: Normalisation,
) -> _Field:
    seen = torch.cat([x, y]).transpose(0, 1)
    seen -= seen.mean(1, keepdim=True)
    wide = seen.double()  # products in float32 lose the close pairs that h = 0.02 lives on
    products = wide @ wide.mT  # [F, 2B, 2B]
    correction = torch.linalg.vector_norm(y - x, dim=2, dtype=torch.float64).mT  # [F, B]
    distance = _distances(products, correction)
    scale = distance.mean()
    unit = (scale / x.shape[-1] ** 0.5).clamp_min(SCALE_FLOOR)
    distance = _out_of_reach(distance / scale.clamp_min(SCALE_FLOOR), own_target)

    force, mean_squares = torch.zeros_like(distance), []
    halves = torch.zeros_like(distance[::SIGNAL_STRIDE])
    for h in bandwidths:
        affinity = _affinity(distance, h, normalisation)
        shares = _half_weights(affinity[::SIGNAL_STRIDE], weighting)
        weights = _weights(affinity, weighting)
        mean_squares.append((weights @ products * weights).sum() / (x.numel() * unit**2))
        force += weights / _root(mean_squares[-1])
        halves += shares / _root(mean_squares[-1])
    rms = _root(torch.stack(mean_squares))
    loss = (torch.stack(mean_squares) / rms).sum()
    alignment, signal = _alignment(force, products, correction), _signal(halves, products[::SIGNAL_STRIDE])
    return _Field(force, seen, unit, loss, rms, scale, alignment, signal)


def _root(mean_square: Tensor) -> Tensor:
    return mean_square.clamp_min(MEAN_SQUARE_FLOOR).sqrt()


def _alignment(force: Tensor, products: Tensor, correction: Tensor) -> Tensor:
    """Mean cosine between the force, as weights [F, B, 2B], and Y - X of length `correction` [F, B]."""
    along = force @ products
    onto = along.diagonal(force.shape[1], 1, 2) - along.diagonal(0, 1, 2)
    length = (along * force).sum(2).clamp_min(DISTANCE_FLOOR**2).sqrt()
    return (onto / (length * correction.clamp_min(DISTANCE_FLOOR))).mean()


def _distances(products: Tensor, correction: Tensor) -> Tensor:
    """Distances [F, B, 2B] from each student to [students, targets]; that to its own target is known exactly."""
    batch = correction.shape[1]
    squares = products.diagonal(0, 1, 2)
    squared = squares[:, :batch, None] + squares[:, None] - 2 * products[:, :batch]
    squared.diagonal(0, 1, 2).zero_()
    squared.diagonal(batch, 1, 2).copy_(correction.square())
    return squared.clamp_min_(DISTANCE_FLOOR**2).sqrt_()


def _out_of_reach(distance: Tensor, own_target: OwnTarget) -> Tensor:
    """Moves what a sample must not see away from it: itself and, with "mask", its own target."""
    distance.diagonal(0, 1, 2).add_(SELF_DISTANCE)
    if own_target == "mask":
        distance.diagonal(distance.shape[1], 1, 2).add_(SELF_DISTANCE)
    return distance


def _affinity(distance: Tensor, bandwidth: float, normalisation: Normalisation) -> Tensor:
    """a± of eq. 6, [F, B, 2B], to [students, targets]. "joint" is the geometric mean of a softmax over everything a
    sample sees and one over everyone who sees it."""
    logits, batch = distance / -bandwidth, distance.shape[1]
    if normalisation == "sharp":
        return torch.cat([_sharp(side) for side in logits.split(batch, dim=2)], dim=2)
    affinity = (logits.softmax(dim=2) * logits.softmax(dim=1)).clamp_min_(AFFINITY_FLOOR).sqrt_()
    if normalisation == "corrected":
        return torch.cat([bias_corrected(side) for side in affinity.split(batch, dim=2)], dim=2)
    return affinity


def _weights(affinity: Tensor, weighting: Weighting) -> Tensor:
    """V_h (eq. 6) as weights [F, B, 2B] of [students, targets]: attraction to the targets minus that to the others.
    Takes the place of `affinity`."""
    negative, positive = affinity.split(affinity.shape[1], dim=2)
    if weighting == "cross":
        _cross(negative, positive)
    negative.neg_()
    affinity.diagonal(0, 1, 2).sub_(affinity.sum(2))  # every weight is on a difference from X_i
    return affinity


def bias_corrected(affinity: Tensor) -> Tensor:
    """Weights [..., n] with equal sums, whose mean of n samples has a bias of O(1/n²) where the given ones' is O(1/n).

    p = a/Σa gives the mean μ = Σ p y, a ratio of two averages; to first order it errs by -Σ p² (y - μ). Adding that
    estimate makes the weights p (1 + p - Σp²): never negative, of sum 1. The derivation by the delta method is ours; it
    answers to what arXiv 2604.27239 (ABC) states of its correction.
    """
    share = affinity / affinity.sum(-1, keepdim=True)
    return affinity * (1 + share - share.square().sum(-1, keepdim=True))


def _sharp(logits: Tensor) -> Tensor:
    """k / Σ k# over the last dimension, for k = exp(-r/h) and logits -r/h: the weights of h² ∇ log Σ k#.

    k#(r) = ∫_r^∞ s k(s) ds / h² = (1 + r/h) exp(-r/h) has the gradient k(r) (y - x) / h² by x (arXiv 2604.06333).
    """
    kernel = (logits - logits.amax(-1, keepdim=True)).exp()
    return kernel / ((1 - logits) * kernel).sum(-1, keepdim=True)


def _cross(negative: Tensor, positive: Tensor) -> None:
    """Multiplies each side's affinities by the other side's total."""
    pull, push = positive.sum(2, keepdim=True), negative.sum(2, keepdim=True)
    positive *= push
    negative *= pull


def _half_weights(affinity: Tensor, weighting: Weighting) -> Tensor:
    """Weights [F, B, 2B] of two forces, that of the even samples and their targets in the even columns of each side,
    that of the odd ones between them. What belongs to a sample itself has none: given X_i the two are independent."""
    batch = affinity.shape[1]
    shares = affinity.clone()
    for own in (0, batch):
        shares.diagonal(own, 1, 2).zero_()
    negative, positive = shares.split(batch, dim=2)
    if weighting == "cross":
        for half in (0, 1):
            _cross(negative[..., half::2], positive[..., half::2])
    negative.neg_()
    return shares


def _signal(halves: Tensor, products: Tensor) -> Tensor:
    """Mean cosine between the two forces of `_half_weights`."""
    batch = halves.shape[1]
    # Even and odd samples: drafts of one condition stand side by side, so that each half sees every condition.
    is_odd = (torch.arange(2 * batch, device=halves.device) % batch) % 2
    odd, even = halves * is_odd, halves * (1 - is_odd)
    for weights in (odd, even):
        weights.diagonal(0, 1, 2).sub_(weights.sum(2))
    along_odd, along_even = odd @ products, even @ products
    squares = (along_odd * odd).sum(2) * (along_even * even).sum(2)
    return ((along_odd * even).sum(2) / squares.clamp_min(DISTANCE_FLOOR**4).sqrt()).mean()


def _everyone(here: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], int]:
    """X and Y of all ranks in rank order, and the index of this rank's first sample."""
    world, size = dist.get_world_size(), len(here[0])
    x, y = (local.new_empty(world * size, *local.shape[1:]) for local in here)
    for whole, local in zip((x, y), here, strict=True):
        dist.all_gather(list(whole.split(size)), local.contiguous())
    return (x, y), dist.get_rank() * size
