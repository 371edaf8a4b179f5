"""Feature extractors by name. A new one is a file here and a line in `EXTRACTORS`, or a package with an entry
point."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fpd_core.plugins import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_OWN: dict[str, Callable[..., Any] | str] = {
    "classifier": "fpd_eval.extractors.classifier:ClassifierExtractor",
    "pixels": "fpd_eval.extractors.pixels:PixelMoments",
    "pixels_8x8": "fpd_eval.extractors.pixels:PixelGrid",
    "efficientnet_lite0": "fpd_eval.extractors.efficientnet_lite0:EfficientNetExtractor",
    "inception_fidelity": "fpd_eval.extractors.inception:FidelityInception",
    "inception_tensorflow": "fpd_eval.extractors.inception:TensorflowInception",
    "inception_clean": "fpd_eval.extractors.inception:CleanInception",
    "inception_coco": "fpd_eval.extractors.inception_coco:CocoInception",
    "dinov2_vitl14": "fpd_eval.extractors.dinov2:Dinov2Extractor",
    "dinov3_vitb16": "fpd_eval.extractors.timm_encoders:dinov3_vitb16",
    "convnextv2_base": "fpd_eval.extractors.timm_encoders:convnextv2_base",
    "mae_vitl16": "fpd_eval.extractors.timm_encoders:mae_vitl16",
    "siglip2_so400m": "fpd_eval.extractors.timm_encoders:siglip2_so400m",
    "clip_vitl14_336": "fpd_eval.extractors.clip_embeddings:ClipEmbeddings",
    "clip_vitg14_laion2b": "fpd_eval.extractors.open_clip_towers:clip_vit_g",
    "clip_vitl14_transformers": "fpd_eval.extractors.transformers_clip:clip_vit_l",
    "pickscore": "fpd_eval.extractors.pickscore:PickScore",
    "hpsv3": "fpd_eval.extractors.hpsv3:Hpsv3",
    "hps_v2.0": "fpd_eval.extractors.open_clip_towers:hps_v2_0",
    "hps_v2.1": "fpd_eval.extractors.open_clip_towers:hps_v2_1",
}
EXTRACTORS = Registry("fpd.extractors", "extractor", _OWN)

# Extractors without "features", or of images with captions: they cannot stand in a battery.
NO_ENCODERS = (
    *("pixels", "clip_vitg14_laion2b", "clip_vitl14_transformers"),
    *("pickscore", "hpsv3", "hps_v2.0", "hps_v2.1"),
)
ENCODERS = tuple(name for name in EXTRACTORS if name not in NO_ENCODERS)
# Extractor -> the name under which a training notes that its loss used the network; by default its own.
FAMILIES = {"pixels_8x8": "pixels", "dinov3_vitb16": "dinov3"}


def family(extractor: str) -> str:
    """What a training must not have seen for this extractor to be held out."""
    return FAMILIES.get(extractor, extractor)


class Extractor(Protocol):
    """Frozen network from images to feature vectors. `fingerprint` is the hash of its weights and options."""

    fingerprint: str

    def __call__(self, batch: Any, /) -> "dict[str, Tensor]":
        """uint8 [B, 3, H, W], or `Pairs` where there is a tower for captions -> named float32 outputs [B, D]."""
        ...


def load_extractor(name: str, device: "torch.device", weights: Path | None = None) -> Extractor:
    """The extractor called `name`, on `device`; `weights` are looked at instead of its place in `EVAL_WEIGHTS`.

    Raises:
        ConfigError: no such extractor.
        CheckpointError: its weights are absent or damaged.
    """
    extractor: Extractor = EXTRACTORS.find(name)(device, weights)
    return extractor
