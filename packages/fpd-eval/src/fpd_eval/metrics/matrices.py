"""What every metric accepts as input: a finite [N, D] matrix, brought to float64."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Features = Tensor | ArrayLike


def matrix(values: Features, name: str, *, min_rows: int = 1) -> Tensor:
    """`values` as a float64 tensor [N, D] on their own device.

    Raises:
        ValueError: not two-dimensional, empty, fewer than `min_rows` rows, or a value is NaN or infinite.
    """
    tensor = values.detach() if isinstance(values, Tensor) else torch.tensor(np.asarray(values, dtype=np.float64))
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{name} features must be a matrix [N, D], got shape {list(tensor.shape)}")
    if len(tensor) < min_rows:
        raise ValueError(f"{name} features have {len(tensor)} rows, at least {min_rows} are needed")
    bad = int((~tensor.isfinite()).any(dim=1).sum())
    if bad:
        raise ValueError(f"{name} features contain NaN or infinity in {bad} of {len(tensor)} rows")
    return tensor.double()


def matrices(real: Features, fake: Features, *, min_rows: int = 1) -> tuple[Tensor, Tensor]:
    """Both sets as float64 [N_real, D] and [N_fake, D] on the device of `real`.

    Raises:
        ValueError: one is not a finite matrix, or they differ in D.
    """
    real, fake = matrix(real, "real", min_rows=min_rows), matrix(fake, "fake", min_rows=min_rows)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real features have {real.shape[1]} dimensions, fake features {fake.shape[1]}")
    return real, fake.to(real.device)
