"""Schedulers that diffusers lacks for two one-step rivals; they take the place of a pipeline's own.

They have what text-to-image pipelines call: `config`, `order`, `init_noise_sigma`, `timesteps` and the methods here.
"""

import torch
from torch import Tensor

TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012  # Stable Diffusion's; linear in the square roots


class RectifiedFlowScheduler:
    """Euler steps along the velocity from noise to data (InstaFlow, arXiv:2309.06380).

    The network is asked at t = 1000 (1 - i / N) and its output is the velocity itself: x <- x + v / N.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self) -> None:
        self.config = {"scheduler": "rectified flow"}
        self.timesteps = torch.empty(0)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        left = 1 - torch.arange(num_inference_steps, dtype=torch.float32, device=device) / num_inference_steps
        self.timesteps = TRAIN_TIMESTEPS * left

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        """The latents after one step."""
        return (sample + model_output / len(self.timesteps),)


class OneStepScheduler:
    """Pure noise at one time of a noise-predicting network, straight to its estimate of the data (SiD-LSG).

    x_t = sqrt(1 - ᾱ_t) ε; x_0 = (x_t - sqrt(1 - ᾱ_t) ε_θ) / sqrt(ᾱ_t).

    Raises:
        ValueError: `timestep` is outside 0 to 999.
    """

    order = 1

    def __init__(self, timestep: int = 625) -> None:
        if not 0 <= timestep < TRAIN_TIMESTEPS:
            raise ValueError(f"timestep must lie in 0 to {TRAIN_TIMESTEPS - 1}, got {timestep}")
        betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64).square()
        kept = float(torch.cumprod(1 - betas, dim=0)[timestep])
        self.config = {"scheduler": "one step", "timestep": timestep}
        self.init_noise_sigma, self._signal = (1 - kept) ** 0.5, kept**0.5
        self._timestep, self.timesteps = timestep, torch.empty(0)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        if num_inference_steps != 1:
            raise ValueError(f"this scheduler takes one step, got {num_inference_steps}")
        self.timesteps = torch.tensor([self._timestep], device=device)

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        """The estimate of the data."""
        return ((sample - self.init_noise_sigma * model_output) / self._signal,)
