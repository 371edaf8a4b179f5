"""Fixed-Point Distillation on one page: eqs. 4-8 composed into the loss of one batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Config, MaskShare, Number, Share, Size, Temperature
from fpd_core.drift import DriftLoss, Normalisation, OwnTarget, Weighting, check_normalisation, drift_loss
from fpd_core.guidance import RefinementGuidance
from fpd_core.lift import Lift
from fpd_core.masking import initial_tokens
from fpd_core.refine import RemaskConfig, refine
from fpd_core.ste import sample_tokens, soft_embedding, straight_through, token_entropy
from fpd_core.teachers.teacher import Teacher


class ObjectiveConfig(Config):
    """The loss. Defaults are the paper's where it speaks; `docs/method.md` lists what was chosen where it does not."""

    init_mask_ratio: MaskShare = Field(0.9, description="r_init, share of [MASK] in z_init; the rest is random.")
    embedding_noise: Share = Field(0.0, description="σ of the noise on the student's token embeddings.")
    remask: RemaskConfig = Field(RemaskConfig(), description="π: which share the teacher refills, in how many passes.")
    guidance_scale: RefinementGuidance | None = Field(
        None,
        description="g of the refining teacher, u + g (c - u): a number (1 is no guidance), `sampler` (what the "
        "teacher samples with), numbers at both ends of r, or null (the family's rule).",
    )
    temperature: Temperature | None = Field(
        None, description="Divides the refining teacher's logits; null is the family's rule."
    )
    estimator: Literal["straight_through", "soft"] = Field(
        "straight_through", description="`soft` decodes the expected embedding and never sees a real token."
    )
    draft_source: Literal["student", "random"] = Field(
        "student", description="What the teacher refines; `random` are uniform codes."
    )
    bandwidths: tuple[Annotated[Number, Field(ge=1e-4, le=1e4)], ...] = Field(
        (0.02, 0.05, 0.2), min_length=1, max_length=32, description="h, in mean pairwise distances."
    )
    weighting: Weighting = Field(
        "plain", description="Of the drift: `cross` also weighs attraction by the sum of repulsion and back."
    )
    own_target: OwnTarget = Field(
        "keep", description="`mask` hides each sample's own refinement from it: unbiased at the fixed point."
    )
    normalisation: Normalisation = Field(
        "joint",
        description="`corrected` takes the O(1/n) bias out of the drift's weighted means; `sharp` makes each "
        "bandwidth's drift the gradient of a potential, with weighting `plain`.",
    )
    code_chunk: Size | None = Field(
        None,
        description="Codes at a time in sampling, entropy and eq. 8, to save memory; null: all, or 8192 of more.",
    )

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        check_normalisation(self.normalisation, self.weighting)
        return self


@dataclass(frozen=True)
class FixedPointLoss:
    """`loss`: scalar with grad. `images` [B, 3, H, W]: the decoded drafts with their graph. Detached: one DriftLoss per
    tapped block, the student's mean token entropy in nats, the share of re-masked tokens that the teacher changed, and
    the means of r and g."""

    loss: Tensor
    images: Tensor
    blocks: list[DriftLoss]
    entropy: Tensor
    changed: Tensor
    mask_ratio: Tensor
    guidance: Tensor


def fixed_point_loss(
    student: Callable[..., Tensor],
    teacher: Teacher,
    lift: Lift,
    condition: Condition,
    config: ObjectiveConfig,
    *,
    progress: float = 0.0,
    generator: torch.Generator | None = None,
    gather: bool = False,
) -> FixedPointLoss:
    """Distance of the student's distribution from its own refinement by the teacher (eq. 3), as a loss.

    Args:
        student: network of the teacher's family, or the engine that trains it.
        condition: B conditions; repeat them beforehand for several drafts each.
        progress: share of the run that is done, in [0, 1]: π may move with it.
        gather: compare with the samples of all ranks. Collective.
    """
    logits, draft = draw_draft(student, teacher, condition, config, generator)
    target = draw_target(teacher, condition, draft, config, progress, generator)
    with torch.no_grad():
        target_features = lift(teacher.codebook[target.tokens], condition)  # Y = Φ(D(E[ẑ_T]))
    images = lift.decode(draft_embeddings(logits, draft, teacher, config), condition)
    features = lift.features(images)  # X = Φ(D(E[ẑ]))
    blocks = drift_blocks(features, target_features, config, gather=gather)
    loss = torch.stack([block.loss for block in blocks]).sum()
    entropy, changed = token_entropy(logits.detach(), chunk=config.code_chunk), target.changed.mean()
    return FixedPointLoss(loss, images, blocks, entropy, changed, target.mask_ratio.mean(), target.guidance.mean())


def draw_draft(
    student: Callable[..., Tensor],
    teacher: Teacher,
    condition: Condition,
    config: ObjectiveConfig,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The student's logits [B, L, K] from z_init, and ẑ [B, L] drawn from them (eq. 4)."""
    batch, length, codes = len(condition), teacher.seq_len, teacher.codebook_size
    z_init = initial_tokens(batch, length, codes, teacher.mask_id, config.init_mask_ratio, generator, teacher.device)
    logits = teacher.logits(
        z_init, condition, network=student, embedding_noise=config.embedding_noise, generator=generator
    )
    return logits, sample_tokens(logits, generator=generator, chunk=config.code_chunk)


@dataclass(frozen=True)
class Target:
    """ẑ_T [B, L]; for every re-masked token 1 where the teacher changed it, else 0; r [B]; g, one or [B]."""

    tokens: Tensor
    changed: Tensor
    mask_ratio: Tensor
    guidance: Tensor


@torch.no_grad()
def draw_target(
    teacher: Teacher,
    condition: Condition,
    draft: Tensor,
    config: ObjectiveConfig,
    progress: float = 0.0,
    generator: torch.Generator | None = None,
) -> Target:
    """ẑ_T = T_φ^r(ẑ) (eq. 5)."""
    source = draft
    if config.draft_source == "random":
        source = torch.randint(teacher.codebook_size, draft.shape, generator=generator, device=draft.device)
    ratio = config.remask.draw(len(condition), draft.device, generator, progress)  # r ~ π
    guidance, temperature = teacher.refinement(ratio, config.guidance_scale, config.temperature)
    refined = refine(
        teacher,
        source,
        condition,
        ratio,
        guidance_scale=guidance,
        temperature=temperature,
        passes=config.remask.passes,
        order=config.remask.order,
        generator=generator,
        chunk=config.code_chunk,
    )
    changed = (refined.tokens != source)[refined.is_masked].float()
    return Target(refined.tokens, changed, ratio, torch.as_tensor(guidance, dtype=torch.float32))


def draft_embeddings(logits: Tensor, draft: Tensor, teacher: Teacher, config: ObjectiveConfig) -> Tensor:
    """What is decoded of a draft, [B, L, d]: its codes, with a gradient to the logits (eq. 8)."""
    if config.estimator == "straight_through":
        return straight_through(logits, draft, teacher.codebook, chunk=config.code_chunk)
    return soft_embedding(logits, teacher.codebook, chunk=config.code_chunk)


def drift_blocks(
    features: list[Tensor], targets: list[Tensor], config: ObjectiveConfig, *, gather: bool = False
) -> list[DriftLoss]:
    """Eqs. 6-7, one problem per tapped block."""
    return [
        drift_loss(
            x,
            y,
            bandwidths=config.bandwidths,
            weighting=config.weighting,
            own_target=config.own_target,
            normalisation=config.normalisation,
            gather=gather,
        )
        for x, y in zip(features, targets, strict=True)
    ]
