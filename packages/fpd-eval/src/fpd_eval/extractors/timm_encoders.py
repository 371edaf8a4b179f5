"""Encoders of photographs that timm builds, one pooled vector per image: readings of vita-epfl/RDM's panel."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from fpd_core.backbones.dinov3 import load_dinov3
from fpd_core.checkpoints import load_strict
from fpd_core.containers import read_public
from fpd_eval.extractors.dinov2 import resized
from fpd_eval.extractors.weights import locate
from fpd_eval.runtime.cache import hash_file, hash_json


@dataclass(frozen=True)
class Reading:
    """How one published network is read.

    Attributes:
        model: timm's name, the tag of the weights included; their mean and standard deviation come with it.
        pool: the class token, the mean over patch tokens, or what timm's own head pools (of a convolutional network
            its mean over places and the LayerNorm after it).
        unused: beginnings of keys of the file that the network without its classifier has no place for.
    """

    model: str
    pool: Literal["class", "patches", "head"]
    unused: tuple[str, ...] = ()


READINGS = {
    "dinov3_vitb16": Reading("vit_base_patch16_dinov3.lvd1689m", "class"),
    "convnextv2_base": Reading("convnextv2_base.fcmae_ft_in22k_in1k", "head", ("head.fc.",)),
    "mae_vitl16": Reading("vit_large_patch16_224.mae", "patches"),
    "siglip2_so400m": Reading("vit_so400m_patch16_siglip_256.v2_webli", "head"),
}


class TimmEncoder:
    """Output "features" [B, D] of images stretched to the network's square by Pillow's bicubic filter, 8-bit.

    Choice: stretched and in 8 bits as for FDD; the panel's authors resize float images, so their numbers are others.

    Raises:
        CheckpointError: the weights are absent, damaged or of another network.
    """

    def __init__(self, name: str, reading: Reading, path: Path, device: torch.device) -> None:
        network: Any = timm.create_model(reading.model, pretrained=False, num_classes=0)
        if name.startswith("dinov3"):
            load_dinov3(network, path)  # in timm's or transformers' names
        else:
            state = {key: value for key, value in read_public(path).items() if not key.startswith(reading.unused)}
            load_strict(network, state, str(path))
        known: Any = timm.get_pretrained_cfg(reading.model)
        self._size, self._mean, self._std = known.input_size[-1], known.mean, known.std
        self._network: Any = network.eval().requires_grad_(False).to(device)
        self._pool, self._device = reading.pool, device
        self.fingerprint = hash_json([reading.model, reading.pool, self._size, hash_file(path)])

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        images = resized(pixels, self._size).to(self._device).float() / 255
        mean, std = (torch.tensor(values, device=self._device).view(3, 1, 1) for values in (self._mean, self._std))
        return {"features": self._pooled(self._network.forward_features((images - mean) / std)).float()}

    def _pooled(self, features: Tensor) -> Tensor:
        if self._pool == "class":
            return features[:, 0]
        if self._pool == "patches":
            return features[:, self._network.num_prefix_tokens :].mean(1)
        pooled: Tensor = self._network.forward_head(features, pre_logits=True)
        return pooled


def _opener(name: str) -> Callable[[torch.device, Path | None], TimmEncoder]:
    def load(device: torch.device, weights: Path | None = None) -> TimmEncoder:
        return TimmEncoder(name, READINGS[name], locate(name, weights), device)

    return load


dinov3_vitb16, convnextv2_base, mae_vitl16, siglip2_so400m = map(_opener, READINGS)
