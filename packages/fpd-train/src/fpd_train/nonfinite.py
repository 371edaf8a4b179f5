"""Which tensor went non-finite first: found once a run is about to stop for it, at no cost before."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def first_non_finite(tensors: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Name of the first tensor with a NaN or an infinity; None where all are finite."""
    for name, tensor in tensors:
        if tensor is not None and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None


@contextmanager
def watched_outputs(network: nn.Module, found: list[str]) -> Iterator[None]:
    """While it lasts, every part of `network` whose output is not finite adds its name to `found`, in order."""

    def watch(name: str, module: nn.Module) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if first_non_finite((name, tensor) for tensor in _tensors(output)) is not None:
                found.append(name or "the network")

        return module.register_forward_hook(look)

    hooks = [watch(name, module) for name, module in network.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def made_finite(output: Any) -> tuple[Any, Tensor | None]:
    """Zeros in place of an output with a NaN or an infinity, without waiting for the device.

    For a step that is going to be skipped: sampling from such logits would end one rank's process, and the others would
    wait for it.

    Returns:
        the output, itself if it is finite; whether it is, a boolean scalar, or None if it holds no real number.
    """
    flags = [tensor.detach().isfinite().all() for tensor in _tensors(output) if tensor.is_floating_point()]
    if not flags:
        return output, None
    finite = torch.stack(flags).all()
    return _replaced(output, finite), finite


def _replaced(output: Any, finite: Tensor) -> Any:
    if isinstance(output, Tensor) and output.is_floating_point():
        return torch.where(finite, output, torch.zeros_like(output))
    if isinstance(output, tuple | list):
        parts = [_replaced(part, finite) for part in output]
        return (
            type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        )  # named tuples take them apart
    return output


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
