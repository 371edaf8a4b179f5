"""ReDi as a method (arXiv 2507.15897): cross-entropy on pairs of a source x⁰ and a sample x¹. No teacher is asked.
`fpd_core.rivals.redi` has the mathematics. The stages are runs, one after the other:

* `real`: ReDi0, real tokens x¹ and a fresh source, on images;
* `pairs`: ReDi1, ReDi2, ..., on shards that `fpd-train shards pairs` has drawn with the student of the stage before;
* `distill`: the one-step student, on such shards too.

Choices: the optimizer of a stage is new (the program keeps its state); no dropout; K columns, not K + 1; positions that
show the target do not count by default, since the bundled teacher has never learned them (`positions` "all" is the
program's). Accumulated micro-batches average to the batch, which the program's do not.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.config import Guidance, Location, MaskShare, Share, Size, Weight
from fpd_core.generator import GenerationConfig
from fpd_core.rivals.redi import blend, pair_loss, source_share, source_tokens
from fpd_core.schedules import RevealRule
from fpd_train.batch import Batch
from fpd_train.data.pair_shards import PairBatch, Pairs
from fpd_train.methods.interface import Forward, Parts, Report
from fpd_train.methods.real_tokens import real_tokens
from fpd_train.methods.rival import Rival, RivalConfig, dropped, uniform
from fpd_train.methods.student import STUDENT, go_on_from


class RediConfig(RivalConfig):
    """ReDi, rectified discrete flow (arXiv 2507.15897)."""

    name: Literal["redi"] = "redi"
    stage: Literal["real", "pairs", "distill"] = Field("real", description="ReDi0, a later round, or the last one.")
    start: Location | None = Field(None, description="Exported student of the stage before; null: the teacher.")
    mask_share: MaskShare = Field(0.3, description="Of [MASK] in a source; the rest is random.")
    positions: Literal["source", "all"] = Field(
        "source", description="Which positions the loss counts: those that show the source, or all."
    )
    visible_weight: Weight = Field(1.0, description="Of positions that show the target, where they count.")
    label_smoothing: Share = Field(
        0.1, description="Over the codes; a model fitted with it draws that share at random."
    )
    class_dropout: Share = Field(0.1, description="Share of labels replaced by the null class.")
    sampling_steps: Size = Field(4, description="Of the exported student.")
    sampling_guidance: Guidance = Field(1.0, description="g of the exported student in its last step.")
    sampling_rule: RevealRule = Field("v1", description="How many tokens each step fixes.")

    @property
    def image_use(self) -> str | None:
        """What the run needs real images for, if it does."""
        return "method redi learns from real images in stage 'real'" if self.stage == "real" else None


class RediMethod(Rival):
    """One stage."""

    def __init__(self, config: RediConfig, parts: Parts) -> None:
        generation = GenerationConfig(
            init_mask_ratio=config.mask_share,
            temperature=config.sampling_temperature,
            steps=config.sampling_steps,
            sampler="confidence",
            guidance_scale=config.sampling_guidance,
            rule=config.sampling_rule,
        )
        super().__init__(config, parts, generation, needs_images=config.stage == "real")
        self._config = config
        if config.start is not None:
            go_on_from(config.start, self.networks[STUDENT])

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        config, mask_id = self._config, self.teacher.mask_id
        pairs, condition = self._pairs(batch, generator), self.condition(batch)
        condition = dropped(condition, self.teacher.null_condition(condition), config.class_dropout, generator)
        u = uniform((len(pairs.target),), generator, pairs.target)
        share = source_share(u, "distill" if config.stage == "distill" else "linear")
        seen, is_source = blend(pairs.source, pairs.target, share, uniform(pairs.target.shape, generator, pairs.target))
        found = pair_loss(
            self.teacher.logits(seen, condition, network=forward[phase]),
            seen,
            is_source,
            pairs.target,
            positions=is_source if config.positions == "source" else torch.ones_like(is_source),
            mask_id=mask_id,
            label_smoothing=config.label_smoothing,
            visible_weight=config.visible_weight,
        )
        parts = {"loss_masked": found.masked, "loss_random": found.random, "loss_visible": found.visible}
        return found.loss, {"loss": found.loss.item()} | {name: part.item() for name, part in parts.items()}

    def _pairs(self, batch: Batch, generator: torch.Generator) -> Pairs:
        """Of the shards; of ReDi0, a fresh source and the real tokens."""
        if self._config.stage != "real":
            if not isinstance(batch, PairBatch):
                names = "pair_shards or captioned_pair_shards"
                raise ValueError(f"stage {self._config.stage!r} learns from pairs; set data.name to {names}")
            return batch.pairs
        real = real_tokens(self.teacher, batch)
        codes = torch.randint(self.teacher.codebook_size, real.shape, generator=generator, device=real.device)
        uniforms = uniform(real.shape, generator, real)
        return Pairs(source_tokens(codes, uniforms, self.teacher.mask_id, self._config.mask_share), real)
