"""Fixed-Point Distillation on one page: eqs. 4-8 composed into the loss of one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.distances import DISTANCES, Block, Distance, Scene
from fpd_core.lift import Lift
from fpd_core.masking import initial_tokens
from fpd_core.objective_config import ObjectiveConfig as ObjectiveConfig
from fpd_core.reference import TeacherSamples
from fpd_core.refine import refine
from fpd_core.ste import sample_tokens, soft_embedding, straight_through, token_entropy
from fpd_core.teachers.teacher import Teacher


@dataclass(frozen=True)
class FixedPointLoss:
    """`loss`: scalar with grad. `images` [B, 3, H, W]: the decoded drafts with their graph. Detached: one block per
    tapped block, the student's mean token entropy in nats and, where drafts were refined, the share of re-masked tokens
    that the teacher changed and the means of r and g."""

    loss: Tensor
    images: Tensor
    blocks: Sequence[Block]
    entropy: Tensor
    changed: Tensor | None
    mask_ratio: Tensor | None
    guidance: Tensor | None


@dataclass(frozen=True)
class Comparison:
    """What drafts are compared by: the distance and, where these are the reference, the teacher's samples."""

    distance: Distance
    samples: TeacherSamples | None = None


def comparison(
    config: ObjectiveConfig, scene: Scene | None = None, samples: TeacherSamples | None = None
) -> Comparison:
    """The comparison that `config` asks for.

    Args:
        scene: needed by a distance that remembers, or is made from samples.
        samples: needed where `config.needs_samples`.

    Raises:
        ValueError: one of these is missing, or does not do.
    """
    missing = (config.distance.remembers and scene is None) or (config.needs_samples and samples is None)
    if missing:
        raise ValueError(
            f"distance {config.distance.name!r} and reference {config.reference!r} last for a whole run: make the "
            "comparison once, with its scene and samples, and give it to every step"
        )
    distance: Distance = DISTANCES[config.distance.name][1](config.distance, config, scene or Scene())
    return Comparison(distance, samples if config.reference == "samples" else None)


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
    by: Comparison | None = None,
) -> FixedPointLoss:
    """Distance of the student's distribution from its own refinement by the teacher (eq. 3), as a loss.

    Args:
        student: network of the teacher's family, or the engine that trains it.
        condition: B conditions; repeat them beforehand for several drafts each.
        progress: share of the run that is done, in [0, 1]: π may move with it.
        gather: compare with the samples of all ranks. Collective.
        by: the run's comparison; made here where nothing of it outlives a step.
    """
    by = by or comparison(config)
    logits, draft = draw_draft(student, teacher, condition, config, generator)
    target_features, target = draw_reference(teacher, lift, condition, draft, config, by, progress, generator)
    images = lift.decode(draft_embeddings(logits, draft, teacher, config), condition)
    features = lift.features(images)  # X = Φ(D(E[ẑ]))
    blocks = by.distance(features, target_features, [condition], gather=gather)
    loss = torch.stack([block.loss for block in blocks]).sum()
    entropy = token_entropy(logits.detach(), chunk=config.code_chunk)
    return FixedPointLoss(loss, images, blocks, entropy, *refinement_means([target]))


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
    """ẑ_T [B, L]; for every re-masked token 1 where the teacher changed it, else 0; r [B] and g, one or [B], means
    over the refinements."""

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
    """ẑ_T = T_φ^r(ẑ) (eq. 5), or several in a row, each with an r of its own: all share the fixed point of eq. 3."""
    source = draft
    if config.draft_source == "random":
        source = torch.randint(teacher.codebook_size, draft.shape, generator=generator, device=draft.device)
    tokens, hidden = source, torch.zeros_like(source, dtype=torch.bool)
    ratios, guidances = [], []
    for _ in range(config.refinements):
        ratio = config.remask.draw(len(condition), draft.device, generator, progress)  # r ~ π
        guidance, temperature = teacher.refinement(ratio, config.guidance_scale, config.temperature)
        refined = refine(
            teacher,
            tokens,
            condition,
            ratio,
            guidance_scale=guidance,
            temperature=temperature,
            passes=config.remask.passes,
            order=config.remask.order,
            generator=generator,
            chunk=config.code_chunk,
        )
        tokens, hidden = refined.tokens, hidden | refined.is_masked
        ratios.append(ratio)
        guidances.append(torch.as_tensor(guidance, dtype=torch.float32))
    changed = (tokens != source)[hidden].float()
    return Target(tokens, changed, torch.stack(ratios).mean(0), torch.stack(guidances).mean(0))


@torch.no_grad()
def draw_reference(
    teacher: Teacher,
    lift: Lift,
    condition: Condition,
    draft: Tensor,
    config: ObjectiveConfig,
    by: Comparison,
    progress: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[list[Tensor], Target | None]:
    """Y [B, F, D] of each map, of the refinement or of the teacher's samples; and what was refined, if it was."""
    if by.samples is not None:
        return by.samples.draw(condition, generator), None
    target = draw_target(teacher, condition, draft, config, progress, generator)
    return lift(teacher.codebook[target.tokens], condition), target  # Y = Φ(D(E[ẑ_T]))


def refinement_means(targets: Sequence[Target | None]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Share of changed tokens, mean r and mean g of a batch's refinements, chunk by chunk; None without any."""
    found = [target for target in targets if target is not None]
    if not found:
        return None, None, None
    changed = torch.cat([target.changed for target in found]).mean()
    ratio = torch.cat([target.mask_ratio for target in found]).mean()
    return changed, ratio, torch.stack([target.guidance.mean() for target in found]).mean()


def draft_embeddings(logits: Tensor, draft: Tensor, teacher: Teacher, config: ObjectiveConfig) -> Tensor:
    """What is decoded of a draft, [B, L, d]: its codes, with a gradient to the logits (eq. 8)."""
    if config.estimator == "straight_through":
        return straight_through(logits, draft, teacher.codebook, chunk=config.code_chunk)
    return soft_embedding(logits, teacher.codebook, chunk=config.code_chunk)
