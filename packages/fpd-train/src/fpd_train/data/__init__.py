"""Data sources. A stream is an infinite iterator of batches whose order is a function of (seed, position) alone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from fpd_core.config import Config
from fpd_core.plugins import Registry
from fpd_core.sections import Sections, one_of
from fpd_train.batch import Batch
from fpd_train.data.caption_shards import CaptionShards
from fpd_train.data.encoded_shards import EncodedCaptionShards, EncodedImageShards
from fpd_train.data.image_shards import CaptionedImageShards, ImageShards
from fpd_train.data.noise import NoiseCaptionedPairs, NoiseCaptions, NoiseImages, NoisePairs
from fpd_train.data.pair_shards import CaptionedPairShards, PairShards
from fpd_train.data.scenes import SceneCloseups, Scenes
from fpd_train.data.shards import Shards
from fpd_train.data.uniform_labels import UniformLabels

_OWN: dict[str, type[Config] | str] = {
    "uniform_labels": UniformLabels,
    "image_shards": ImageShards,
    "noise_images": NoiseImages,
    "noise_captions": NoiseCaptions,
    "pair_shards": PairShards,
    "noise_pairs": NoisePairs,
    "captioned_pair_shards": CaptionedPairShards,
    "noise_captioned_pairs": NoiseCaptionedPairs,
    "caption_shards": CaptionShards,
    "captioned_image_shards": CaptionedImageShards,
    "encoded_captions": EncodedCaptionShards,
    "encoded_captioned_images": EncodedImageShards,
    "scenes": Scenes,
    "scene_closeups": SceneCloseups,
}
SOURCES = Registry("fpd.data", "data source", _OWN, one_of(Config, subclass=True, key="name"))

if TYPE_CHECKING:
    DataConfig = Any
else:
    DataConfig = Annotated[Config, Sections(SOURCES, section=lambda source: source)]


def open_stream(
    config: DataConfig, *, batch_size: int, seed: int, rank: int, world: int, position: int
) -> Iterator[Batch]:
    """Batches from sample `position` of the global order on. Sample n goes to rank n mod world.

    Sources that count in global batches begin with the next whole one: none of it has been seen.

    Raises:
        DataError: the source cannot be read.
    """
    if isinstance(config, Shards):
        return config.stream(batch_size, seed=seed, rank=rank, world=world, position=position)
    start = -(-position // (batch_size * world))
    batches: Iterator[Batch] = config.open(batch_size=batch_size, seed=seed, rank=rank, world=world, start=start)
    return batches
