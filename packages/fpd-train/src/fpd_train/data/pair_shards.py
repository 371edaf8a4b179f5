"""Shards of pairs for ReDi: a class, the tokens that a sampler started from, and those it arrived at."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import ClassCondition
from fpd_core.config import Classes, Codes, Size
from fpd_train.batch import Batch
from fpd_train.data.shards import Shards, place
from fpd_train.errors import DataError

TOKEN = np.dtype("<i4")


@dataclass(frozen=True)
class Pairs:
    """Tokens [B, L] that a sampler started from, masks among them, and those it arrived at."""

    source: Tensor
    target: Tensor


@dataclass(frozen=True)
class PairBatch(Batch):
    """Conditions with the pairs drawn for them."""

    pairs: Pairs = field(kw_only=True)

    def to(self, device: torch.device) -> "PairBatch":
        pairs = Pairs(self.pairs.source.to(device), self.pairs.target.to(device))
        return PairBatch(self.condition.to(device), pairs=pairs)


class PairShards(Shards):
    """Each sample has a label (`.cls`) and two rows of tokens, `.src` and `.tgt`: little-endian 32-bit integers."""

    name: Literal["pair_shards"] = "pair_shards"
    has_images: ClassVar[bool] = False
    num_classes: Classes = Field(description="Labels must lie in [0, num_classes).")
    codebook_size: Codes = Field(description="K; sources may also hold K, the mask id.")
    seq_len: Size = Field(description="L, tokens of an image.")

    def batch(self, samples: list[dict[str, Any]]) -> Batch:
        labels = torch.tensor([self._label(sample) for sample in samples])
        source = torch.stack([self._tokens(sample, "src", self.codebook_size) for sample in samples])
        target = torch.stack([self._tokens(sample, "tgt", self.codebook_size - 1) for sample in samples])
        return PairBatch(ClassCondition(labels), pairs=Pairs(source, target))

    def _tokens(self, sample: dict[str, Any], key: str, largest: int) -> Tensor:
        data = sample.get(key)
        if not isinstance(data, bytes) or len(data) != self.seq_len * TOKEN.itemsize:
            raise DataError(f"{place(sample)} has no {self.seq_len} tokens (.{key})")
        tokens = np.frombuffer(data, TOKEN).astype(np.int64)
        if tokens.min() < 0 or tokens.max() > largest:
            raise DataError(f"{place(sample)} has tokens (.{key}) outside 0 to {largest}")
        return torch.from_numpy(tokens)

    def _label(self, sample: dict[str, Any]) -> int:
        try:
            label = int(sample["cls"])
        except (KeyError, ValueError):
            raise DataError(f"{place(sample)} has no integer label (.cls)") from None
        if not 0 <= label < self.num_classes:
            raise DataError(f"{place(sample)} has label {label}, the config allows 0 to {self.num_classes - 1}")
        return label
