"""Sampling as diffusers schedulers.

All have the same settings, so that any is made from another's: `HaltonScheduler.from_config(pipe.scheduler.config)`.
"""

import torch
from torch import Tensor

from fpd_core.masking import initial_tokens, remask
from fpd_core.pipeline.discrete import DiscreteScheduler
from fpd_core.rivals.dmmd import posterior
from fpd_core.rivals.redi import fix_surest, source_tokens
from fpd_core.sampling import halton_turns, reveal
from fpd_core.schedules import mask_ratio


class OneStepScheduler(DiscreteScheduler):
    """The student's own sampling: z_init and one draw. Of more steps, an ever smaller share is hidden and drawn again
    (`few_steps.refill`)."""

    def initial_sample(
        self, batch: int, length: int, codebook_size: int, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """z_init (eq. 1)."""
        share = self.init_mask_ratio
        return initial_tokens(batch, length, codebook_size, self.mask_token_id, share, generator, device)

    def _kept(self, k: int, logits: Tensor, drawn: Tensor, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        tokens = drawn if k == 0 else torch.where(sample == self.mask_token_id, drawn, sample)
        if k + 1 == self.num_inference_steps:
            return tokens
        done = torch.tensor((k + 1) / self.num_inference_steps, dtype=torch.float64)
        share = self.init_mask_ratio * float(mask_ratio(done, "arccos"))
        return remask(tokens, share, self.mask_token_id, generator)[0]


class ConfidenceScheduler(DiscreteScheduler):
    """MaskGIT's order: each step fixes what the network is surest of (`sampling.sample`)."""

    def _heat(self, k: int) -> float:
        return self.sampler.draw_temperature(k, self.num_inference_steps)

    def _turns(self, sample: Tensor) -> Tensor | None:
        return None

    def _kept(self, k: int, logits: Tensor, drawn: Tensor, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        return reveal(
            sample,
            drawn,
            logits,
            self._plan(sample.shape[1])[k],
            self.sampler,
            self.sampler.ranking_noise(k, self.num_inference_steps),
            mask_id=self.mask_token_id,
            turns=self._turns(sample),
            generator=generator,
        )


class HaltonScheduler(ConfidenceScheduler):
    """The order of the two-dimensional Halton points; with `shift` each image begins elsewhere on the circle."""

    def _begin(self, sample: Tensor, generator: torch.Generator | None) -> None:
        shift = bool(self.sampler.shift)
        self._order = halton_turns(*sample.shape, shift=shift, generator=generator, device=sample.device)

    def _turns(self, sample: Tensor) -> Tensor | None:
        return self._order


class AncestralScheduler(DiscreteScheduler):
    """Masked diffusion: a mask at t stays one at s with probability s/t (`few_steps.ancestral`)."""

    def _kept(self, k: int, logits: Tensor, drawn: Tensor, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        uniform = torch.rand(sample.shape, generator=generator, device=sample.device)
        steps = self.num_inference_steps
        return posterior(sample, drawn, (k + 1) / steps, k / steps, uniform, self.mask_token_id)


class SourceScheduler(DiscreteScheduler):
    """Confidence order from masks and random codes, every position open at first (`few_steps.by_confidence`)."""

    def initial_sample(
        self, batch: int, length: int, codebook_size: int, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """x⁰ of ReDi; the noise on the rankings of all steps is drawn here."""
        codes = torch.randint(codebook_size, (batch, length), generator=generator, device=device)
        uniform = torch.rand(batch, length, generator=generator, device=device)
        source = source_tokens(codes, uniform, self.mask_token_id, self.init_mask_ratio)
        self._draw_noise(source, generator)
        return source

    def _draw_noise(self, sample: Tensor, generator: torch.Generator | None) -> None:
        shape = (self.num_inference_steps, *sample.shape)
        noise = torch.rand(shape, generator=generator, device=sample.device).clamp_min(1e-20)
        self._gumbel: Tensor | None = -(-noise.log()).clamp_min(1e-20).log()

    def set_timesteps(self, num_inference_steps: int | None = None, device: torch.device | str | None = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        self._gumbel = None

    def _begin(self, sample: Tensor, generator: torch.Generator | None) -> None:
        if self._gumbel is None:  # the sequence started elsewhere than in `initial_sample`
            self._draw_noise(sample, generator)
        self._is_open = torch.ones_like(sample, dtype=torch.bool)

    def progress(self, timestep: float | Tensor) -> float:
        """As `few_steps.by_confidence` counts it."""
        return 1.0 if self.num_inference_steps == 1 else (1 + self._share(self._index(timestep))) - 1

    def _share(self, k: int) -> float:
        return k / (self.num_inference_steps - 1 + 1e-6)

    def _kept(self, k: int, logits: Tensor, drawn: Tensor, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        p = logits.float().softmax(-1)
        assert self._gumbel is not None  # drawn by `_begin`
        noise = self.sampler.confidence_temperature * (1 - self._share(k)) * self._gumbel[k]
        score = p.gather(-1, drawn[..., None])[..., 0].log() + noise
        tokens, self._is_open = fix_surest(score, drawn, sample, self._is_open, self._plan(sample.shape[1])[k])
        return tokens
