"""Activation checkpointing: what a backward pass needs is computed again in place of being kept."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(network: nn.Module) -> None:
    """Keep of each block of a network, the members of its lists, what goes in and nothing else."""
    for block in _blocks(network):
        recompute(block, "forward")


def recompute(owner: Any, method: str) -> None:
    """Have a method of an object keep its inputs alone, where it is asked for gradients."""
    work: Callable[..., Any] = getattr(owner, method)

    @wraps(work)
    def again(*args: Any, **kwargs: Any) -> Any:
        wanted = any(isinstance(value, Tensor) and value.requires_grad for value in (*args, *kwargs.values()))
        if not torch.is_grad_enabled() or not wanted:
            return work(*args, **kwargs)
        return checkpoint(work, *args, use_reentrant=False, **kwargs)

    setattr(owner, method, again)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Outermost members of lists of modules."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _blocks(child)
