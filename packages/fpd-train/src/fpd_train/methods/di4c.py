"""Di4C as a method (arXiv 2410.08709): a student with one more input λ, a mixture that learns which tokens go together.
`fpd_core.rivals.di4c` has the mathematics; this is one update of the released program on real tokens.

`di4c-d` is what the program runs by default. It has no switch for plain `di4c`: here that is distillation and
consistency without x_0 as a label, which is a guess.

Choices: sums run over the masked positions, since a teacher trained on those alone says nothing about visible tokens
(`positions` "all" is the program's); no dropout, which the program's student has; K columns, not K + 1.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Flag, Guidance, Number, Share, Size, Weight
from fpd_core.generator import GenerationConfig
from fpd_core.rivals.di4c import DataWeight, data_weight, di4c_loss, mask_by, partial_states
from fpd_core.ste import sample_tokens
from fpd_train.batch import Batch
from fpd_train.methods.interface import Forward, Parts, Report
from fpd_train.methods.real_tokens import real_tokens
from fpd_train.methods.rival import Rival, RivalConfig, dropped, gumbel, uniform


class Di4cConfig(RivalConfig):
    """Di4C (arXiv 2410.08709), plain or with its data term (`di4c-d`); defaults are the program's but for M and δ."""

    name: Literal["di4c", "di4c-d"] = Field("di4c", description="Which kind of section this is.")
    latents: Size = Field(8, description="M, values of λ per image; the program has 32.")
    delta: Number = Field(1 / 16, gt=0, le=1, description="δ, the teacher's step in r; the program has 0.05.")
    data_weight: DataWeight = Field("sigmoid", description="a(r) of di4c-d's correlated data term.")
    data_scale: Weight = Field(0.1, description="The largest a(r).")
    control_variate: Flag = Field(True, description="Compare with the product of marginals.")
    positions: Literal["masked", "all"] = Field("masked", description="Where sums over positions run.")
    class_dropout: Share = Field(0.1, description="Share of labels replaced by the null class.")
    ranking_noise: Number = Field(4.5, ge=0, le=1e3, description="Of the teacher's reveals, and of sampling.")
    sampling_steps: Size = Field(4, description="Of the exported student.")
    sampling_guidance: Guidance = Field(1.0, description="g of the exported student in its last step.")

    @property
    def image_use(self) -> str:
        """What the run needs real images for."""
        return f"method {self.name} learns from real images"


class Di4cMethod(Rival):
    """The student with λ; the teacher stays as it is."""

    def __init__(self, config: Di4cConfig, parts: Parts) -> None:
        generation = GenerationConfig(
            init_mask_ratio=1.0,
            temperature=config.sampling_temperature,
            steps=config.sampling_steps,
            sampler="confidence",
            guidance_scale=config.sampling_guidance,
            ranking_noise=config.ranking_noise,
        )
        super().__init__(config, parts, generation, needs_images=True, extra_input="latent")
        self._config = config

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        config, teacher, clean = self._config, self.teacher, real_tokens(self.teacher, batch)
        condition = self.condition(batch)
        condition = dropped(condition, teacher.null_condition(condition), config.class_dropout, generator)
        r = uniform((len(clean),), generator, clean)
        x_t = mask_by(clean, r, uniform(clean.shape, generator, clean), teacher.mask_id)
        student = partial(self._mixture, forward[phase], condition, generator)
        with torch.no_grad():
            p_t = teacher.logits(x_t, condition)
            ahead = self._ahead(x_t, p_t, r, generator)
            q = student(ahead)
            y = sample_tokens(q.flatten(0, 1), generator=generator).view(ahead.shape)
        found = di4c_loss(
            student(x_t[:, None].expand(-1, config.latents, -1)),
            p_t,
            q,
            y,
            clean,
            r,
            positions=x_t == teacher.mask_id
            if config.positions == "masked"
            else torch.ones_like(x_t, dtype=torch.bool),
            data_weights=data_weight(r, config.data_weight, config.data_scale) if config.name == "di4c-d" else None,
            delta=config.delta,
            control_variate=config.control_variate,
        )
        terms = {"data": found.data, "distillation": found.distillation, "consistency": found.consistency}
        return found.loss, {"loss": found.loss.item()} | {name: term.mean().item() for name, term in terms.items()}

    def _ahead(self, x_t: Tensor, teacher_logits: Tensor, r: Tensor, generator: torch.Generator) -> Tensor:
        """The teacher's partial states [B, M, L] at r + δ."""
        shape = (len(x_t), self._config.latents, x_t.shape[1])
        each = teacher_logits[:, None].expand(-1, self._config.latents, -1, -1)
        drawn = sample_tokens(each.flatten(0, 1), generator=generator).view(shape)
        return partial_states(
            x_t,
            drawn,
            teacher_logits,
            gumbel(shape, generator, x_t),
            r,
            delta=self._config.delta,
            mask_id=self.teacher.mask_id,
            noise=self._config.ranking_noise,
        ).tokens

    def _mixture(self, network: Forward, condition: Condition, generator: torch.Generator, tokens: Tensor) -> Tensor:
        """The student's logits [B, M, L, K] at tokens [B, M, L], with a fresh λ for each."""
        batch, latents, _ = tokens.shape
        latent = uniform((batch * latents,), generator, tokens)
        logits = self.teacher.logits(
            tokens.flatten(0, 1), condition.repeat_interleave(latents), network=partial(network, latent=latent)
        )
        return logits.view(batch, latents, *logits.shape[1:])
