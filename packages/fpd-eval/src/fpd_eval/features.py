"""Features of an image set: one pass over the images for all extractors that are not cached yet."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fpd_eval.cache import Cache
from fpd_eval.extractors import Extractor
from fpd_eval.image_sets import ImageSet
from fpd_eval.progress import Track

Outputs = dict[str, dict[str, Tensor]]


def features(images: ImageSet, extractors: Mapping[str, Extractor], cache: Cache, track: Track) -> Outputs:
    """Outputs of every extractor for every image: {extractor: {output: float32 [N, D]}}.

    The images are made only where some extractor's features are not in the cache.
    """
    keys = {
        name: cache.key("features", images=images.identity, extractor=extractor.fingerprint)
        for name, extractor in extractors.items()
    }
    found = {name: stored for name, key in keys.items() if (stored := cache.get_tensors(key)) is not None}
    missing = {name: extractor for name, extractor in extractors.items() if name not in found}
    for name, outputs in _extract(images, missing, track).items():
        cache.put_tensors(keys[name], outputs)
        found[name] = outputs
    return found


def _extract(images: ImageSet, extractors: Mapping[str, Extractor], track: Track) -> Outputs:
    if not extractors:
        return {}
    batches: dict[str, dict[str, list[Tensor]]] = {name: {} for name in extractors}
    with track(images.title, len(images.labels)) as advance:
        for pixels in images.batches():
            for name, extractor in extractors.items():
                for output, values in extractor(pixels.float() / 255).items():
                    batches[name].setdefault(output, []).append(values.float().cpu())
            advance(len(pixels))
    return {
        name: {output: torch.cat(values) for output, values in outputs.items()} for name, outputs in batches.items()
    }
