"""Noise: what `--synthetic-weights` puts in the place of shards of images, of captions and of pairs."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from fpd_core.conditioning import ClassCondition, PromptCondition
from fpd_core.config import Classes, Codes, Config, Size
from fpd_train.batch import Batch
from fpd_train.data.pair_shards import PairBatch, Pairs
from fpd_train.seeds import seeded

# The scenes' tower knows few words, and these.
WORDS = ["a", "and", "apple", "bird", "blue", "boat", "car", "cat", "cup", "dog", "of", "photo", "red", "two"]


class NoiseImages(Config):
    """No files: to prove and profile the path of methods that learn from images."""

    name: Literal["noise_images"] = "noise_images"
    has_images: ClassVar[bool] = True
    num_classes: Classes = Field(description="Labels run from 0 to num_classes - 1.")
    image_size: Size = Field(description="Side of the square images.")

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        position = start
        while True:
            generator = seeded("noise images", seed, position, rank)
            labels = torch.randint(self.num_classes, (batch_size,), generator=generator)
            images = torch.rand(batch_size, 3, self.image_size, self.image_size, generator=generator)
            yield Batch(ClassCondition(labels), images)
            position += 1


class NoiseCaptions(Config):
    """No files: random words as captions, to prove and profile the path of text-conditional teachers."""

    name: Literal["noise_captions"] = "noise_captions"
    has_images: ClassVar[bool] = False
    words: Size = Field(8, description="Of a caption.")

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        position = start
        while True:
            generator = seeded("noise captions", seed, position, rank)
            drawn = torch.randint(len(WORDS), (batch_size, self.words), generator=generator).tolist()
            yield Batch(PromptCondition(tuple(" ".join(WORDS[word] for word in row) for row in drawn)))
            position += 1


class _NoisePairs(Config):
    has_images: ClassVar[bool] = False
    codebook_size: Codes = Field(description="K; a source also holds K, the mask id.")
    seq_len: Size = Field(description="L, tokens of an image.")

    def _pairs(self, batch_size: int, generator: torch.Generator) -> Pairs:
        shape = (batch_size, self.seq_len)
        source = torch.randint(self.codebook_size + 1, shape, generator=generator)
        return Pairs(source, torch.randint(self.codebook_size, shape, generator=generator))


class NoisePairs(_NoisePairs):
    """No files: random codes as sources and as targets, to prove and profile the path of ReDi's later stages."""

    name: Literal["noise_pairs"] = "noise_pairs"
    num_classes: Classes = Field(description="Labels run from 0 to num_classes - 1.")

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        position = start
        while True:
            generator = seeded("noise pairs", seed, position, rank)
            labels = torch.randint(self.num_classes, (batch_size,), generator=generator)
            yield PairBatch(ClassCondition(labels), pairs=self._pairs(batch_size, generator))
            position += 1


class NoiseCaptionedPairs(_NoisePairs):
    """No files: the same, of random words."""

    name: Literal["noise_captioned_pairs"] = "noise_captioned_pairs"

    def open(self, *, batch_size: int, seed: int, rank: int, world: int, start: int) -> Iterator[Batch]:
        captions = NoiseCaptions().open(batch_size=batch_size, seed=seed, rank=rank, world=world, start=start)
        for position, batch in enumerate(captions, start):
            generator = seeded("noise captioned pairs", seed, position, rank)
            yield PairBatch(batch.condition, pairs=self._pairs(batch_size, generator))
