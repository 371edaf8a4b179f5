"""A name for the content of tensors."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def hash_tensors(tensors: Mapping[str, Tensor], salt: str = "") -> str:
    """SHA-256 over `salt`, names, dtypes, shapes and bytes, independent of order and device."""
    digest = hashlib.sha256(salt.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
