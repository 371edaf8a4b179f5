"""D-MMD as a method (arXiv 2603.20155): a student of k steps, an auxiliary, a guided teacher. No program is public;
`fpd_core.rivals.dmmd` has the printed equations for masked diffusion.

Choices, none of them printed: 1 - α = t and w = 1; the mean over a sample's masked positions of z_s, then over the
batch; the auxiliary's second term follows the guided teacher as well (a guess); every step updates the student and then
the auxiliary, each with a fresh draw, where the paper alternates; both start from the teacher; every forward pass has a
new pyramid of noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import Flag, Guidance, Number, Size, Temperature
from fpd_core.generator import GenerationConfig
from fpd_core.networks.token_transformer import TokenTransformer
from fpd_core.rivals.dmmd import auxiliary_losses, generator_losses, lowered_outside_nucleus, posterior, times
from fpd_core.ste import sample_tokens
from fpd_train.batch import Batch
from fpd_train.methods.interface import Forward, Parts, Report
from fpd_train.methods.real_tokens import real_tokens
from fpd_train.methods.rival import Rival, RivalConfig, uniform
from fpd_train.methods.student import STUDENT, trainable_copy

AUXILIARY = "auxiliary"


class DmmdConfig(RivalConfig):
    """Discrete moment matching distillation (arXiv 2603.20155), masked diffusion."""

    name: Literal["dmmd"] = "dmmd"
    student_steps: Size = Field(4, description="k, sampling steps of the student; one student for each.")
    guidance_scale: Guidance = Field(2.0, description="g of the teacher.")
    teacher_temperature: Temperature = Field(1.0, description="τ, divides the teacher's log-probabilities.")
    teacher_top_p: Annotated[Number, Field(gt=0, le=1)] = Field(
        1.0, description="Codes outside this nucleus of the teacher are lowered by `lowering`."
    )
    lowering: Number = Field(2.0, ge=0, le=100, description="Δ of the log-probabilities outside the nucleus.")
    soft_targets: Flag = Field(False, description="The auxiliary learns from p in place of the drawn x.")
    sampling_top_p: Annotated[Number, Field(gt=0, le=1)] = Field(1.0, description="Of the exported student's draws.")
    sampler: Literal["ancestral", "confidence"] = Field("ancestral", description="How the student is sampled.")

    @property
    def image_use(self) -> str:
        """What the run needs real images for."""
        return "method dmmd learns from real images"


@dataclass(frozen=True)
class Step:
    """p's logits [B, L, K] at z_t, x [B, L] drawn from them, z_s [B, L]."""

    logits: Tensor
    drawn: Tensor
    z_s: Tensor


class DmmdMethod(Rival):
    """Student and auxiliary in turns."""

    def __init__(self, config: DmmdConfig, parts: Parts) -> None:
        generation = GenerationConfig(
            init_mask_ratio=1.0,
            temperature=config.sampling_temperature,
            steps=config.student_steps,
            sampler=config.sampler,
            top_p=config.sampling_top_p,
        )
        super().__init__(config, parts, generation, needs_images=True, extra_input="noise")
        self._config = config
        self.networks = {**self.networks, AUXILIARY: trainable_copy(self.teacher.network, config.frozen)}

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        condition, clean = self.condition(batch), real_tokens(self.teacher, batch)
        if phase == STUDENT:
            taken = self._step(forward[STUDENT], clean, condition, generator)
            is_masked = taken.z_s == self.teacher.mask_id
            with torch.no_grad():
                auxiliary = self.teacher.logits(taken.z_s, condition, network=forward[AUXILIARY])
            losses = generator_losses(taken.logits, auxiliary, self._target(taken.z_s, condition), is_masked)
            loss = mean_of_samples(losses, is_masked)
            entropy = torch.distributions.Categorical(logits=taken.logits.detach()).entropy().mean()
            return loss, {"loss": loss.item(), "entropy": entropy.item()}
        with torch.no_grad():
            taken = self._step(forward[STUDENT], clean, condition, generator)
        is_masked = taken.z_s == self.teacher.mask_id
        auxiliary = self.teacher.logits(taken.z_s, condition, network=forward[AUXILIARY])
        own = {"student_logits": taken.logits} if self._config.soft_targets else {"drawn": taken.drawn}
        losses = auxiliary_losses(auxiliary, self._target(taken.z_s, condition), is_masked, **own)
        loss = mean_of_samples(losses, is_masked)
        return loss, {"loss_auxiliary": loss.item()}

    def _step(self, student: Forward, clean: Tensor, condition: Condition, generator: torch.Generator) -> Step:
        """Steps 1 and 2: z_t of real tokens, p = student(z_t, noise), x ~ p, z_s ~ q(z_s | x, z_t)."""
        batch, mask_id = (len(clean),), self.teacher.mask_id
        s, t = times(uniform(batch, generator, clean), uniform(batch, generator, clean), self._config.student_steps)
        z_t = clean.masked_fill(uniform(clean.shape, generator, clean) < t[:, None], mask_id)
        network = self.networks[STUDENT]
        assert isinstance(network, TokenTransformer)
        noise = network.draw_inputs(len(clean), generator)
        logits = self.teacher.logits(z_t, condition, network=partial(student, **noise))
        drawn = sample_tokens(logits, generator=generator)
        alpha_s, alpha_t = 1 - s[:, None], 1 - t[:, None]
        z_s = posterior(z_t, drawn, alpha_s, alpha_t, uniform(clean.shape, generator, clean), mask_id)
        return Step(logits, drawn, z_s)

    @torch.no_grad()
    def _target(self, z_s: Tensor, condition: Condition) -> Tensor:
        """The teacher's logits [B, L, K], guided, tempered, lowered outside the nucleus."""
        logits = self.teacher.guided_logits(z_s, condition, self._config.guidance_scale)
        logits = logits / self._config.teacher_temperature
        if self._config.teacher_top_p == 1:
            return logits
        return lowered_outside_nucleus(logits, self._config.teacher_top_p, self._config.lowering)[0]


def mean_of_samples(losses: Tensor, is_masked: Tensor) -> Tensor:
    """Mean over each sample's masked positions, 0 where it has none, then over the batch: [B, L] -> scalar."""
    return (losses.sum(1) / is_masked.sum(1).clamp_min(1)).mean()
