"""Di[M]O as a method (arXiv 2503.15457): the student, and an auxiliary that follows it. `fpd_core.rivals.dimo` has the
mathematics; this is one update of the released program.

Choices: the mask id is no code here, so that K columns are compared and not K + 1; no network has dropout (the
program's three do); the auxiliary's fresh draft has the labels of the student's batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Guidance, MaskShare, Number, Share
from fpd_core.generator import GenerationConfig
from fpd_core.rivals.dimo import auxiliary_loss, generator_loss, hide, surrogate
from fpd_core.schedules import mask_ratio
from fpd_core.ste import sample_tokens
from fpd_train.batch import Batch
from fpd_train.methods.interface import Forward, NetworkSettings, Parts, Report
from fpd_train.methods.rival import Rival, RivalConfig, uniform
from fpd_train.methods.student import STUDENT, trainable_copy

AUXILIARY = "auxiliary"


class DimoSettings(RivalConfig):
    """What Di[M]O and its soft successor have in common; defaults are the released program's."""

    init_mask_ratio: MaskShare = Field(0.6, description="r_init, share of [MASK] in z_init; the rest is random.")
    embedding_noise: Share = Field(0.1, description="σ of the noise on the student's token embeddings.")
    guidance_scale: Guidance = Field(2.0, description="g of the teacher, u + g (c - u), constant.")
    beta: Number = Field(0.0, ge=-2, le=2, description="0: forward KL, 1: reverse KL; -0.2 is the paper's best.")


class DimoConfig(DimoSettings):
    """Di[M]O (arXiv 2503.15457)."""

    name: Literal["dimo"] = "dimo"


@dataclass(frozen=True)
class Draft:
    """z [B, L, K] from z_init, x [B, L] drawn from it, x̃ with `is_masked` [B, L]."""

    logits: Tensor
    tokens: Tensor
    seen: Tensor
    is_masked: Tensor


class DimoMethod(Rival):
    """Student and auxiliary in turns, both from the teacher's weights."""

    def __init__(self, config: DimoSettings, parts: Parts, *, needs_images: bool = False) -> None:
        generation = GenerationConfig(
            init_mask_ratio=config.init_mask_ratio,
            embedding_noise=config.embedding_noise,
            temperature=config.sampling_temperature,
        )
        super().__init__(config, parts, generation, needs_images=needs_images)
        self._config = config
        self.settings = {AUXILIARY: NetworkSettings(clip=0.0)}  # the program clips the student's gradient alone
        self.networks = {**self.networks, AUXILIARY: trainable_copy(self.teacher.network, config.frozen)}

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        condition = self.condition(batch)
        if phase == AUXILIARY:
            return self._auxiliary_loss(condition, forward, generator)
        return self.student_loss(condition, self.draw(forward[STUDENT], condition, generator), forward)

    def draw(self, student: Forward, condition: Condition, generator: torch.Generator) -> Draft:
        """Steps 1 and 2: z_init, a draft, and the draft re-masked at m = (2/π) arccos(U)."""
        teacher, shape = self.teacher, (len(condition), self.teacher.seq_len)
        codes = torch.randint(teacher.codebook_size, shape, generator=generator, device=teacher.device)
        r_init = torch.full(shape[:1], self._config.init_mask_ratio, device=teacher.device)
        z_init, _ = hide(codes, r_init, uniform(shape, generator, codes), teacher.mask_id)
        z = teacher.logits(
            z_init,
            condition,
            network=student,
            embedding_noise=self._config.embedding_noise,
            generator=generator,
        )
        draft = sample_tokens(z, generator=generator)
        ratio = mask_ratio(uniform(shape[:1], generator, codes), "arccos")
        return Draft(z, draft, *hide(draft, ratio, uniform(shape, generator, codes), teacher.mask_id))

    def student_loss(self, condition: Condition, draft: Draft, forward: Mapping[str, Forward]) -> tuple[Tensor, Report]:
        """Steps 3 to 5: G, evaluated at x̃, lands on z."""
        with torch.no_grad():
            teacher = self.teacher.guided_logits(draft.seen, condition, self._config.guidance_scale)
            auxiliary = self.teacher.logits(draft.seen, condition, network=forward[AUXILIARY])
        gradient = surrogate(auxiliary, teacher, draft.is_masked, self._config.beta)
        loss = generator_loss(draft.logits, gradient)
        entropy = torch.distributions.Categorical(logits=draft.logits.detach()).entropy().mean()
        return loss, {"loss": loss.item(), "entropy": entropy.item()}

    def _auxiliary_loss(
        self, condition: Condition, forward: Mapping[str, Forward], generator: torch.Generator
    ) -> tuple[Tensor, Report]:
        """Step 6, on a fresh draft of the updated student."""
        with torch.no_grad():
            draft = self.draw(forward[STUDENT], condition, generator)
        logits = self.teacher.logits(draft.seen, condition, network=forward[AUXILIARY])
        found = auxiliary_loss(logits, draft.tokens, draft.is_masked, teacher_smoothing=self.teacher.label_smoothing)
        return found.loss, {"loss_auxiliary": found.loss.item()}
