"""Shards of pairs for ReDi: a class or a caption, the tokens that a sampler started from, and those it arrived at."""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import ClassCondition, PromptCondition
from fpd_core.config import Classes, Codes, Size
from fpd_train.batch import Batch
from fpd_train.data.bad_samples import BadSample
from fpd_train.data.caption_shards import decoded_caption
from fpd_train.data.image_shards import decoded_label
from fpd_train.data.places import Place
from fpd_train.data.resumable import require_finished
from fpd_train.data.shards import Shards

TOKEN = np.dtype("<i4")
SETTINGS = "pairs.json"  # beside pairs from the first one on; `sizes.json` comes last


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


class _PairShards(Shards, ABC):
    """Two rows of tokens, `.src` and `.tgt`: little-endian 32-bit integers."""

    has_images: ClassVar[bool] = False
    codebook_size: Codes = Field(description="K; sources may also hold K, the mask id.")
    seq_len: Size = Field(description="L, tokens of an image.")

    def shards(self) -> list[Place]:
        require_finished(self.folder, SETTINGS, "fpd-train shards pairs")
        return super().shards()

    def _both(self, source: bytes, target: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._tokens(source, "src", self.codebook_size), self._tokens(target, "tgt", self.codebook_size - 1)

    def _tokens(self, data: bytes, ending: str, largest: int) -> NDArray[np.int64]:
        if len(data) != self.seq_len * TOKEN.itemsize:
            raise BadSample("no tokens", f"has no {self.seq_len} tokens (.{ending})")
        tokens = np.frombuffer(data, TOKEN).astype(np.int64)
        if tokens.min() < 0 or tokens.max() > largest:
            raise BadSample("tokens out of range", f"has tokens (.{ending}) outside 0 to {largest}")
        return tokens


class PairShards(_PairShards):
    """Each sample has a label (`.cls`) and two rows of tokens, `.src` and `.tgt`."""

    name: Literal["pair_shards"] = "pair_shards"
    members: ClassVar[tuple[tuple[str, ...], ...]] = (("cls",), ("src",), ("tgt",))
    num_classes: Classes = Field(description="Labels must lie in [0, num_classes).")

    def decode(self, members: Sequence[bytes]) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        return decoded_label(members[0], self.num_classes), *self._both(*members[1:])

    def collate(self, samples: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]) -> Batch:
        labels, source, target = (torch.from_numpy(np.array(column)) for column in zip(*samples, strict=True))
        return PairBatch(ClassCondition(labels), pairs=Pairs(source, target))


class CaptionedPairShards(_PairShards):
    """Each sample has a caption (`.txt`) and two rows of tokens, `.src` and `.tgt`."""

    name: Literal["captioned_pair_shards"] = "captioned_pair_shards"
    members: ClassVar[tuple[tuple[str, ...], ...]] = (("txt",), ("src",), ("tgt",))

    def decode(self, members: Sequence[bytes]) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
        return decoded_caption(members[0]), *self._both(*members[1:])

    def collate(self, samples: list[tuple[str, NDArray[np.int64], NDArray[np.int64]]]) -> Batch:
        captions, source, target = zip(*samples, strict=True)
        pairs = Pairs(torch.from_numpy(np.array(source)), torch.from_numpy(np.array(target)))
        return PairBatch(PromptCondition(captions), pairs=pairs)
