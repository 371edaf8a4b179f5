"""One problem over several chunks of samples, in the memory of one chunk's graph.

The loss couples all samples, but its gradient by their features needs no graph below them. So: features of all chunks
without a graph, the gradient, then each chunk again with its graph and that gradient pulled back through it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.distances import Block
from fpd_core.drift import pulled_back
from fpd_core.lift import Lift
from fpd_core.objective import (
    Comparison,
    FixedPointLoss,
    ObjectiveConfig,
    comparison,
    draft_embeddings,
    draw_draft,
    draw_reference,
    refinement_means,
)
from fpd_core.ste import token_entropy
from fpd_core.teachers.teacher import Teacher


@dataclass(frozen=True)
class Chunk:
    """One chunk's share of the whole problem: its drafts [B, L], the state of its generator before they were drawn,
    the gradient [B, F, D] of each block times the number of chunks; of the whole, the blocks and what is reported."""

    condition: Condition
    draft: Tensor
    random_state: Tensor
    gradients: list[Tensor]
    blocks: Sequence[Block]
    reported: tuple[Tensor | None, Tensor | None, Tensor | None]


@torch.no_grad()
def first_pass(
    student: Callable[..., Tensor],
    teacher: Teacher,
    lift: Lift,
    conditions: Sequence[Condition],
    config: ObjectiveConfig,
    *,
    progress: float = 0.0,
    generators: Sequence[torch.Generator],
    gather: bool = False,
    by: Comparison | None = None,
) -> list[Chunk]:
    """Solve the problem of all chunks together.

    Args:
        conditions, generators: one per chunk; every chunk draws what it would draw alone.
        progress: share of the run that is done, in [0, 1].
        gather: compare with the samples of all ranks. Collective.
        by: the run's comparison; made here where nothing of it outlives a step.
    """
    by = by or comparison(config)
    states, drafts, features, goals, target_features = [], [], [], [], []
    for condition, generator in zip(conditions, generators, strict=True):
        states.append(generator.get_state())
        logits, draft = draw_draft(student, teacher, condition, config, generator)
        found, target = draw_reference(teacher, lift, condition, draft, config, by, progress, generator)
        target_features.append(found)
        features.append(lift(draft_embeddings(logits, draft, teacher, config), condition))
        drafts.append(draft)
        goals.append(target)
    all_features, all_targets = (
        [torch.cat(block) for block in zip(*chunks, strict=True)] for chunks in (features, target_features)
    )
    blocks = by.distance(all_features, all_targets, conditions, gather=gather)
    sizes = [len(draft) for draft in drafts]
    # The mean over chunks of the losses is the loss of the whole.
    shares = zip(*[(len(drafts) * block.gradient).split(sizes) for block in blocks], strict=True)
    return [
        Chunk(condition, draft, state, list(share), blocks, refinement_means(goals))
        for condition, draft, state, share in zip(conditions, drafts, states, shares, strict=True)
    ]


def second_pass(
    student: Callable[..., Tensor],
    teacher: Teacher,
    lift: Lift,
    chunk: Chunk,
    config: ObjectiveConfig,
    *,
    generator: torch.Generator,
) -> FixedPointLoss:
    """The loss of the whole, with this chunk's share of its gradient. Draws again exactly what the first pass drew."""
    generator.set_state(chunk.random_state)
    logits, _ = draw_draft(student, teacher, chunk.condition, config, generator)
    # The first pass's drafts: without a graph a network may round otherwise, and a token could flip.
    images = lift.decode(draft_embeddings(logits, chunk.draft, teacher, config), chunk.condition)
    parts = zip(lift.features(images), chunk.gradients, chunk.blocks, strict=True)
    loss = torch.stack([block.loss.detach() + pulled_back(x, gradient) for x, gradient, block in parts]).sum()
    entropy = token_entropy(logits.detach(), chunk=config.code_chunk)
    return FixedPointLoss(loss, images, chunk.blocks, entropy, *chunk.reported)
