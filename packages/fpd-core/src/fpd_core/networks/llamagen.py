"""The names of LlamaGen's VQ-16, whose network is `vqgan.py`'s, in taming-transformers'."""

import re
from collections.abc import Mapping

from torch import Tensor

_LEVEL = re.compile(r"decoder\.conv_blocks\.(\d{1,3})\.")
_PARTS = (
    *(("encoder.conv_blocks.", "encoder.down."), (".res.", ".block.")),
    *((".mid.0.", ".mid.block_1."), (".mid.1.", ".mid.attn_1."), (".mid.2.", ".mid.block_2.")),
)


def to_taming(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LlamaGen's keys renamed; those of any other network, and unknown ones, unchanged."""
    last = max((int(found[1]) for found in map(_LEVEL.match, state) if found), default=0)
    return {_renamed(key, last): value for key, value in state.items()}


def _renamed(key: str, last: int) -> str:
    """One of LlamaGen's keys; its decoder counts levels from low to high resolution, `last` being the full one."""
    key = _LEVEL.sub(lambda found: f"decoder.up.{last - int(found[1])}.", key)
    for old, new in _PARTS:
        key = key.replace(old, new)
    return key
