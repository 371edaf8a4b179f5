"""Randomness as a function of (purpose, seed, progress): nothing to save, nothing to restore."""

import zlib

import numpy as np
import torch


def seeded(purpose: str, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on its arguments alone; different purposes never share a stream."""
    words = np.random.SeedSequence([zlib.crc32(purpose.encode()), *numbers]).generate_state(2)
    return torch.Generator(device).manual_seed(int(words[0]) << 31 ^ int(words[1]))
