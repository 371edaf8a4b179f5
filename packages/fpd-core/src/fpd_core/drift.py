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

SELF_DISTANCE = 100.0  # added to the normalised distance of a sample to itself: exp(-100/h) underflows
AFFINITY_FLOOR = 1e-6  # inside the root, so no affinity is below 1e-3
DISTANCE_FLOOR = 1e-4
SCALE_FLOOR = 1e-3
MEAN_SQUARE_FLOOR = 1e-8


@dataclass(frozen=True)
class DriftLoss:
    """`loss`: scalar with grad. Detached monitors: `rms` [bandwidths] is Z_h, `scale` the mean pairwise distance,
    `alignment` the mean cosine between the force Σ_h V_h/Z_h and the correction Y - X."""

    loss: Tensor
    rms: Tensor
    scale: Tensor
    alignment: Tensor


def drift_loss(
    student: Tensor,
    target: Tensor,
    *,
    bandwidths: Sequence[float] = (0.02, 0.05, 0.2),
    weighting: Weighting = "plain",
    own_target: OwnTarget = "keep",
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
        gather: let samples of all ranks take part. Collective: call on every rank with equal shapes.

    Returns:
        DriftLoss in float32, or float64 for float64 input.

    Raises:
        ValueError: shapes differ or are not [B, F, D], or a bandwidth is not positive and finite.
    """
    if student.ndim != 3 or student.shape != target.shape:
        raise ValueError(f"student {tuple(student.shape)} and target {tuple(target.shape)} must be one shape [B, F, D]")
    if not bandwidths or not all(0 < h < math.inf for h in bandwidths):
        raise ValueError(f"bandwidths must be positive and finite, got {tuple(bandwidths)}")
    # float32 outside autocast: at h = 0.02 a bfloat16 distance is off by whole nats.
    wide = torch.promote_types(student.dtype, torch.float32)
    with torch.autocast(student.device.type, enabled=False):
        x, y = student.to(wide).transpose(0, 1), target.detach().to(wide).transpose(0, 1)  # [F, B, D]
        all_x, all_y, first = _everyone(x.detach(), y) if gather else (x.detach(), y, 0)
        distance, scale = _normalized_distances(all_x, all_y, own_target)
        unit = (scale / x.shape[-1] ** 0.5).clamp_min(SCALE_FLOOR)
        drifts = [_drift(all_x / unit, all_y / unit, distance, h, weighting) for h in bandwidths]
        rms = torch.stack([v.square().mean().clamp_min(MEAN_SQUARE_FLOOR).sqrt() for v in drifts])
        mine = slice(first, first + x.shape[1])
        position, anchor = x / unit, x.detach() / unit
        loss = x.new_zeros(())
        for v, z in zip(drifts, rms, strict=True):
            loss = loss + (position - (anchor + v[:, mine])).square().mean() / z
        force = torch.stack([v / z for v, z in zip(drifts, rms, strict=True)]).sum(0)
        alignment = torch.cosine_similarity(force, all_y - all_x, dim=-1).mean()
    return DriftLoss(loss, rms, scale, alignment)


def _normalized_distances(x: Tensor, y: Tensor, own_target: OwnTarget) -> tuple[Tensor, Tensor]:
    """Distances [F, B, 2B] from each student to [students, targets] over their mean, hidden pairs out of reach."""
    others = torch.cat([x, y], dim=1)
    # The matrix-multiply route of cdist loses the close pairs that h = 0.02 lives on.
    distance = torch.cdist(x, others, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(DISTANCE_FLOOR)
    scale = distance.mean()
    distance = distance / scale.clamp_min(SCALE_FLOOR)
    diagonal = torch.arange(x.shape[1], device=x.device)
    distance[:, diagonal, diagonal] += SELF_DISTANCE
    if own_target == "mask":
        distance[:, diagonal, diagonal + x.shape[1]] += SELF_DISTANCE
    return distance, scale


def _drift(x: Tensor, y: Tensor, distance: Tensor, bandwidth: float, weighting: Weighting) -> Tensor:
    """V_h [F, B, D] (eq. 6): attraction to the targets minus attraction to the other students."""
    logits = -distance / bandwidth
    # Softmax over everything a sample sees and over everyone who sees it; the geometric mean is a± of eq. 6.
    affinity = (logits.softmax(dim=2) * logits.softmax(dim=1)).clamp_min(AFFINITY_FLOOR).sqrt()
    negative, positive = affinity.split(x.shape[1], dim=2)
    if weighting == "cross":
        negative, positive = (
            negative * positive.sum(2, keepdim=True),
            positive * negative.sum(2, keepdim=True),
        )
    pull = positive @ y - positive.sum(2, keepdim=True) * x
    push = negative @ x - negative.sum(2, keepdim=True) * x
    drift: Tensor = pull - push
    return drift


def _everyone(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
    """Samples of all ranks in rank order, and the index of this rank's first one."""
    gathered = []
    for local in (x, y):
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        gathered.append(torch.cat(parts, dim=1))
    return gathered[0], gathered[1], dist.get_rank() * x.shape[1]
