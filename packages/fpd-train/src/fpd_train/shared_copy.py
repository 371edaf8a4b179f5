"""Copies of networks that need no second memory for what is not trained."""

from copy import deepcopy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def shared_copy(module: M) -> M:
    """A deep copy whose frozen parameters lie in the original's memory.

    They are parameters of their own: an engine that converts or partitions one copy leaves the other as it is.
    """
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    return deepcopy(module, {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in frozen})
