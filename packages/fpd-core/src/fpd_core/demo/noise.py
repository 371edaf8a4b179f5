"""The page's random numbers, in Python: `site/noise.js` has the same ones, to the bit.

A counter-based generator: a number is a hash of the words that name it, so nothing has a state and any number can be
made alone. All arithmetic is modulo 2^32.

    mix(x)              x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16   (lowbias32)
    key(w0, w1, ...)    k = mix(w0); then k = mix(k + (w + 1) * 0x9e3779b9) for every further word w
    uniform(key, i)     (mix(key + (i + 1) * 0x9e3779b9) >> 8) / 2^24, exact in float32, in [0, 1)

Words: (seed, image, STUDENT, row) for the rows of a student's noise, (seed, image, TEACHER, 2 * step + kind) for a
teacher's step, kind 0 the draws and 1 the ranking.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STUDENT, TEACHER = 0, 1
_GOLDEN = 0x9E3779B9
_WORD = 0xFFFFFFFF


def _mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _key(*words: int) -> int:
    key = _mix(np.array([words[0] & _WORD], dtype=np.uint32))
    for word in words[1:]:
        key = _mix(key + np.uint32((word + 1) * _GOLDEN & _WORD))
    return int(key[0])


def uniform(count: int, *words: int) -> NDArray[np.float32]:
    """[count] float32 in [0, 1), multiples of 2^-24, named by `words`."""
    index = (np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN & _WORD).astype(np.uint32)
    return (_mix(np.uint32(_key(*words)) + index) >> np.uint32(8)).astype(np.float32) / np.float32(2**24)


def student_noise(seed: int, images: int, length: int) -> Tensor:
    """[images, 3, length] float32, the `noise` of `export.graph.OneStep`."""
    rows = [[uniform(length, seed, image, STUDENT, row) for row in range(3)] for image in range(images)]
    return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(images, 3, length))
