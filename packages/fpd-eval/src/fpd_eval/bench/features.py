"""Features of an image set: one pass over the images for all extractors, in pieces that ranks share and a killed run
keeps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fpd_eval.extractors import Extractor
from fpd_eval.images.image_set import ImageSet
from fpd_eval.runtime.batching import in_batches
from fpd_eval.runtime.cache import Cache
from fpd_eval.runtime.progress import Track
from fpd_eval.runtime.ranks import ALONE, Ranks

Outputs = dict[str, dict[str, Tensor]]


def features(
    images: ImageSet[Any],
    extractors: Mapping[str, Extractor],
    cache: Cache,
    track: Track,
    *,
    ranks: Ranks = ALONE,
    batch_size: int | None = None,
) -> Outputs:
    """Outputs of every extractor for every image: {extractor: {output: float32 [N, D]}}. Collective.

    Images are made batch by batch, only where some extractor's features are not in the cache, and never all held. Each
    batch's features go to the cache at once: a killed run continues behind them. Batches belong to ranks in turn; the
    cache is a folder that all ranks see.

    Args:
        batch_size: images per call of an extractor; by default an image batch, halved while it does not fit the GPU.

    Returns:
        Everything on the main rank, {} on others.

    Raises:
        ValueError: an extractor gave NaN or infinity, or a rank's pieces are not in the cache folder.
    """
    keys = {name: _key(cache, "features", images, extractor) for name, extractor in extractors.items()}
    found: Outputs = {}
    if ranks.is_main:
        found = {name: stored for name, key in keys.items() if (stored := cache.get_tensors(key)) is not None}
    missing = ranks.from_main([name for name in extractors if name not in found])
    if missing:
        wanted = {name: extractors[name] for name in missing}
        _extract_pieces(images, wanted, cache, track, ranks, batch_size)
        ranks.barrier()
        if ranks.is_main:
            for name, extractor in wanted.items():
                found[name] = _join_pieces(images, name, extractor, cache)
                cache.put_tensors(keys[name], found[name])
            for extractor in wanted.values():
                for start in images.starts:
                    cache.drop_tensors(_key(cache, "piece", images, extractor, start))
        # Nobody looks into the cache again before it is in order.
        ranks.barrier()
    return found


def _key(cache: Cache, kind: str, images: ImageSet[Any], extractor: Extractor, start: int | None = None) -> str:
    parts = {"images": images.identity, "extractor": extractor.fingerprint}
    return cache.key(kind, **parts) if start is None else cache.key(kind, **parts, start=start, size=images.batch_size)


def _extract_pieces(
    images: ImageSet[Any],
    extractors: Mapping[str, Extractor],
    cache: Cache,
    track: Track,
    ranks: Ranks,
    batch_size: int | None,
) -> None:
    own = ranks.share(images.starts)
    with track(images.title, len(own) * images.batch_size) as advance:
        for start in own:
            keys = {name: _key(cache, "piece", images, extractor, start) for name, extractor in extractors.items()}
            absent = [name for name, key in keys.items() if not cache.has_tensors(key)]
            pixels = images.batch(start) if absent else None
            for name in absent:
                assert pixels is not None
                outputs = _fitting(extractors[name], pixels, batch_size or len(pixels))
                _require_finite(outputs, name, images, start)
                cache.put_tensors(keys[name], outputs)
            advance(images.batch_size)


def _fitting(extractor: Extractor, pixels: Any, batch_size: int) -> dict[str, Tensor]:
    """Features of one batch of an image set, `batch_size` at a time or as many as fit the GPU's memory."""
    parts = list(in_batches(lambda part: extractor(pixels[part]), len(pixels), batch_size))
    return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}


def _require_finite(outputs: Mapping[str, Tensor], extractor: str, images: ImageSet[Any], start: int) -> None:
    for values in outputs.values():
        bad = (~values.isfinite()).any(dim=1).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"extractor {extractor!r} gave NaN or infinity for image {start + int(bad[0])} of {images.title}"
            )


def _join_pieces(images: ImageSet[Any], name: str, extractor: Extractor, cache: Cache) -> dict[str, Tensor]:
    pieces = []
    for start in images.starts:
        piece = cache.get_tensors(_key(cache, "piece", images, extractor, start))
        if piece is None:
            raise ValueError(
                f"the features of images {start} and on of {images.title} ({name}) are not in {cache.folder}; "
                "start again, with a --cache-dir that all ranks share"
            )
        pieces.append(piece)
    return {output: torch.cat([piece[output] for piece in pieces]) for output in pieces[0]}
