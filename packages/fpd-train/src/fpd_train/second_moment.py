"""AdamW without its first average: one float32 copy of the weights less."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class SecondMomentAdamW(torch.optim.Optimizer):
    """AdamW with beta1 = 0, whose step is g / (sqrt(v) + eps) with v the bias-corrected average of g^2.

    torch's own keeps the first average even where its decay is 0. Same arithmetic otherwise, one tensor at a time.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, *, beta2: float, eps: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "beta2": beta2, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"], state["exp_avg_sq"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        average = state["exp_avg_sq"].mul_(group["beta2"]).addcmul_(gradient, gradient, value=1 - group["beta2"])
        corrected = 1 - group["beta2"] ** float(state["step"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(gradient, (average.sqrt() / corrected**0.5).add_(group["eps"]), value=-group["lr"])
