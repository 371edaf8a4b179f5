"""What fpd's schedulers share, in the form that discrete schedulers take in diffusers (its pull request 14741).

Timesteps fall from 1 (all unknown) towards 0; `step` maps logits and tokens to the tokens that the network sees next. A
scheduler owns what shapes the logits (temperature, top-k, top-p); guidance is the pipeline's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from fpd_core.rivals.dimo import draw_probabilities
from fpd_core.sampling import draw
from fpd_core.schedules import reveal_plan
from fpd_core.teachers import SamplerConfig


@dataclass
class DiscreteSchedulerOutput(BaseOutput):
    """What a step made.

    Attributes:
        prev_sample: [B, L], what the network sees next: codes and, until the last step, mask tokens.
        sampled_tokens: [B, L] codes drawn at every position.
        sampled_probs: [B, L], their probabilities under `pred_logits`.
        pred_logits: [B, L, K] that they were drawn from: shaped by temperature, top-k and top-p.
    """

    prev_sample: Tensor
    sampled_tokens: Tensor
    sampled_probs: Tensor
    pred_logits: Tensor


class DiscreteScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """What they share. A subclass says how a sequence starts (`initial_sample`) and what a step keeps (`_kept`)."""

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,  # diffusers takes positional settings for defaults when it makes another scheduler of them
        mask_token_id: int,
        init_mask_ratio: float = 0.9,
        num_inference_steps: int = 1,
        temperature: float = 1.0,
        temperature_start: float | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        schedule: str = "arccos",
        rule: str = "corrected",
        confidence: str = "probability",
        confidence_temperature: float = 4.5,
        annealed_draws: bool = False,
        first_progress: str = "zero",
        shift: bool | None = None,
        multiplier: dict[str, Any] | None = None,
    ) -> None:
        """Settings as in `GenerationConfig` and `SamplerConfig`; `temperature` is the softmax's.

        Args:
            mask_token_id: of the network.
            init_mask_ratio: r_init, of `OneStepScheduler` and `SourceScheduler`.
            num_inference_steps: where `set_timesteps` is told none.
            top_p: tokens are drawn from the likeliest codes of this probability; 1 leaves all in.
        """
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        self.sampler = SamplerConfig.model_validate(
            {
                "softmax_temperature": temperature,
                "softmax_temperature_start": temperature_start,
                "top_k": top_k,
                "schedule": schedule,
                "rule": rule,
                "confidence": confidence,
                "confidence_temperature": confidence_temperature,
                "annealed_draws": annealed_draws,
                "first_progress": first_progress,
                "shift": shift,
                "multiplier": multiplier,
            }
        )
        self.mask_token_id, self.init_mask_ratio, self.top_p = mask_token_id, init_mask_ratio, top_p
        self.own_steps = num_inference_steps
        self.set_timesteps()

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """What `compatibles` lists: diffusers looks for names of its own alone."""
        kinds = DiscreteScheduler.__subclasses__()
        return [*kinds, *(more for kind in kinds for more in kind.__subclasses__())]

    def set_timesteps(self, num_inference_steps: int | None = None, device: torch.device | str | None = None) -> None:
        """`timesteps` 1, 1 - 1/N, ..., 1/N. Raises ValueError: N is not positive."""
        steps = self.own_steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise ValueError(f"num_inference_steps must be positive, got {steps}")
        self.num_inference_steps = steps
        self.timesteps = (1 - torch.arange(steps, dtype=torch.float64) / steps).to(device, torch.float32)

    def initial_sample(
        self, batch: int, length: int, codebook_size: int, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """What the network sees first [batch, length]: masks alone. After `set_timesteps`."""
        return torch.full((batch, length), self.mask_token_id, device=device)

    def progress(self, timestep: float | Tensor) -> float:
        """How far the loop is at a timestep, from 0 to 1, which moves guidance."""
        return self.sampler.progress(self._index(timestep), self.num_inference_steps)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        *,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> DiscreteSchedulerOutput | tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step.

        Args:
            model_output: guided logits [B, L, K] at `sample`, not yet shaped.
            timestep: one of `timesteps`.
            sample: tokens [B, L].
            generator: on the device of the logits.

        Raises:
            ValueError: another timestep, or more steps than tokens.
        """
        k = self._index(timestep)
        if k == 0:
            self._begin(sample, generator)
        logits = self.sampler.tempered(model_output, k, self.num_inference_steps)
        if self.top_p < 1:
            logits = draw_probabilities(logits, top_p=self.top_p).log()
        heat = self._heat(k)
        drawn = draw(logits, heat, generator)
        prev_sample = self._kept(k, logits, drawn, sample, generator)
        logits = logits / heat if heat > 0 else logits
        probabilities = logits.float().softmax(-1).gather(-1, drawn[..., None])[..., 0]
        if not return_dict:
            return prev_sample, drawn, probabilities, logits
        return DiscreteSchedulerOutput(prev_sample, drawn, probabilities, logits)

    def _index(self, timestep: float | Tensor) -> int:
        k = round((1 - float(timestep)) * self.num_inference_steps)
        if not 0 <= k < self.num_inference_steps or abs(1 - k / self.num_inference_steps - float(timestep)) > 1e-4:
            raise ValueError(f"timestep {float(timestep):g} is none of the {self.num_inference_steps} that were set")
        return k

    def _begin(self, sample: Tensor, generator: torch.Generator | None) -> None:
        """Draws what stays the same for all steps, before the first."""

    def _heat(self, k: int) -> float:
        """What divides the shaped logits where tokens are drawn."""
        return 1.0

    def _plan(self, length: int) -> list[int]:
        return reveal_plan(length, self.num_inference_steps, self.sampler.schedule, self.sampler.rule)

    def _kept(self, k: int, logits: Tensor, drawn: Tensor, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        raise NotImplementedError
