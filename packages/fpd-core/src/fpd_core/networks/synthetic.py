"""Deterministic weights and inputs, so that full-size networks run, and can be compared, where no real weights are.

A 32-bit integer hash of (index, position) stands in for a random generator: the same numbers in any language and on any
machine. Matrices keep the scale of their input, norm weights stay near one, so activations neither vanish nor explode.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


def _uniform(count: int, position: int) -> NDArray[np.float64]:
    """u in [-0.5, 0.5) for indices 0..count-1; all integer arithmetic modulo 2^32."""
    h = np.arange(count, dtype=np.uint32) * np.uint32(2654435761)
    h += np.uint32((position * 40503 + 12345) % 2**32)
    h ^= h >> np.uint32(15)
    h *= np.uint32(2246822519)
    h ^= h >> np.uint32(13)
    return h / 2**32 - 0.5


def synthetic_tensor(key: str, shape: Sequence[int], position: int) -> Tensor:
    """One float32 weight.

    Args:
        key: state-dict name; vectors named `...weight` are 1 + 0.1 u, other vectors 0.1 u.
        shape: two or more dimensions get the variance 1 / (elements per output channel).
        position: of the key among the sorted keys of its network, from 0.
    """
    u = _uniform(math.prod(shape), position)
    if len(shape) < 2:
        values = 0.1 * u + (1.0 if key.endswith("weight") else 0.0)
    else:
        values = u * math.sqrt(12 * shape[0] / u.size)
    return torch.from_numpy(values.astype(np.float32)).view(tuple(shape))


def synthetic_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Key -> shape to key -> float32 weight; the position of a key is its rank in byte order."""
    return {key: synthetic_tensor(key, shapes[key], position) for position, key in enumerate(sorted(shapes))}


@torch.no_grad()
def fill_synthetic(module: nn.Module) -> None:
    """Overwrite every tensor of the module's state dict in place, in its own dtype and on its own device.

    Tensors without storage, on the meta device or fake ones, have no values to write.
    """
    state = module.state_dict()
    for position, key in enumerate(sorted(state)):
        if not (state[key].is_meta or isinstance(state[key], FakeTensor)):
            state[key].copy_(synthetic_tensor(key, state[key].shape, position))


def synthetic_ints(count: int, position: int, modulus: int) -> Tensor:
    """[count] int64 in [0, modulus): made-up tokens."""
    return torch.from_numpy(np.floor((_uniform(count, position) + 0.5) * modulus).astype(np.int64))


def synthetic_floats(shape: Sequence[int], position: int) -> Tensor:
    """float32 of unit variance in [-sqrt(3), sqrt(3)): made-up features or images."""
    values = _uniform(math.prod(shape), position) * math.sqrt(12)
    return torch.from_numpy(values.astype(np.float32)).view(tuple(shape))
