"""Shards of text features that `fpd-train encode` wrote: the run's text tower reads nothing but the empty prompt."""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fpd_core.conditioning import EncodedCaptions, TextCondition
from fpd_core.config import Size
from fpd_train.batch import Batch
from fpd_train.data.bad_samples import BadSample
from fpd_train.data.image_shards import IMAGE_KEYS, decoded_image, stacked
from fpd_train.data.places import Place
from fpd_train.data.resumable import require_finished
from fpd_train.data.shards import Shards
from fpd_train.errors import DataError

SETTINGS = "encoding.json"  # beside features from the first shard on; `sizes.json` comes last
MEMBER = "features"
_TOWER_BYTES = 32


class Features(NamedTuple):
    """One caption: [T, D], [D'], [T', D''], and the tower that read it."""

    tokens: Tensor
    pooled: Tensor
    decoder: Tensor
    tower: str


def packed(features: TextCondition, tower: str) -> bytes:
    """A batch of one as safetensors; a decoder that reads what the transformer reads is not written twice."""
    tensors = {"tokens": features.tokens[0], "pooled": features.pooled[0]}
    if features.decoder is not features.tokens:
        tensors["decoder"] = features.decoder[0]
    tensors["tower"] = torch.frombuffer(bytearray.fromhex(tower), dtype=torch.uint8)
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def unpacked(content: bytes) -> Features:
    """Raises BadSample: not what `packed` makes."""
    try:
        tensors = load(content)
    except SafetensorError:
        raise BadSample("no features", f"has no safetensors (.{MEMBER})") from None
    tokens, pooled, tower = (tensors.get(name) for name in ("tokens", "pooled", "tower"))
    decoder = tensors.get("decoder", tokens)
    if tokens is None or pooled is None or decoder is None or tower is None:
        raise BadSample("no features", f"lacks tokens, pooled or tower (.{MEMBER})")
    if (tokens.dim(), pooled.dim(), decoder.dim()) != (2, 1, 2) or (tower.dtype, tower.numel()) != (
        torch.uint8,
        _TOWER_BYTES,
    ):
        raise BadSample("no features", f"has tensors of other shapes than a caption's (.{MEMBER})")
    return Features(tokens, pooled, decoder, bytes(tower.tolist()).hex())


def batch_of(samples: Sequence[Features]) -> EncodedCaptions:
    """Raises DataError: features of several towers."""
    towers = {sample.tower for sample in samples}
    shapes = {(sample.tokens.shape, sample.pooled.shape, sample.decoder.shape) for sample in samples}
    if len(towers) > 1 or len(shapes) > 1:
        raise DataError("these shards mix the features of several text towers; encode all of them with one config")
    tokens, pooled, decoder = (torch.stack(list(column)) for column in zip(*(one[:3] for one in samples), strict=True))
    return EncodedCaptions(TextCondition(tokens, pooled, decoder), towers.pop())


class _Encoded(Shards):
    def shards(self) -> list[Place]:
        require_finished(self.folder, SETTINGS, "fpd-train encode")
        return super().shards()


class EncodedCaptionShards(_Encoded):
    """Each sample has the text features of a caption (`.features`)."""

    name: Literal["encoded_captions"] = "encoded_captions"
    has_images: ClassVar[bool] = False
    members: ClassVar[tuple[tuple[str, ...], ...]] = ((MEMBER,),)

    def decode(self, members: Sequence[bytes]) -> Features:
        return unpacked(members[0])

    def collate(self, samples: list[Features]) -> Batch:
        return Batch(batch_of(samples))


class EncodedImageShards(_Encoded):
    """Each sample has an image and the text features of its caption (`.features`)."""

    name: Literal["encoded_captioned_images"] = "encoded_captioned_images"
    has_images: ClassVar[bool] = True
    members: ClassVar[tuple[tuple[str, ...], ...]] = (IMAGE_KEYS, (MEMBER,))
    busy: ClassVar[bool] = True
    image_size: Size = Field(description="Side of the square images; others are refused.")

    def decode(self, members: Sequence[bytes]) -> tuple[NDArray[np.uint8], Features]:
        return decoded_image(members[0], self.image_size), unpacked(members[1])

    def collate(self, samples: list[tuple[NDArray[np.uint8], Features]]) -> Batch:
        return Batch(batch_of([features for _, features in samples]), stacked([image for image, _ in samples]))
