"""The Inception network of 2015 in the variants the official programs use. All share one set of weights; they differ in
how images reach 299 pixels, which moves FID by whole points."""

import io
from pathlib import Path

import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from fpd_core.checkpoints import CheckpointError
from fpd_core.containers import read_public
from fpd_eval.extractors.weights import EVAL_WEIGHTS, locate
from fpd_eval.runtime.cache import hash_file, hash_json

SPATIAL_CHANNELS = 7


class FidelityInception:
    """torch-fidelity's `inception-v3-compat`: TensorFlow 1 bilinear resize without antialiasing, (x - 128) / 128.

    Outputs "features" [B, 2048], "logits" [B, 1008] without the classifier's bias, and "spatial" [B, 2023]: the first 7
    channels of TensorFlow's `mixed_6/conv`, 17 x 17 x 7 in that order (ADM's sFID).
    """

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        path = locate("inception_fidelity", weights)
        # The library unpickles whatever the file holds; here it gets tensors only.
        buffer = io.BytesIO()
        torch.save(read_public(path), buffer)
        buffer.seek(0)
        layers = ["2048", "logits_unbiased"]
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", layers, feature_extractor_weights_path=buffer)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit Inception: {str(error).splitlines()[-1].strip()}") from None
        self.network, self.device = network.to(device), device
        self.fingerprint = hash_json(["torch-fidelity inception-v3-compat", hash_file(path)])
        self._spatial = torch.empty(0)
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        features, logits = self.network(pixels.to(self.device))
        return {"features": features, "logits": logits, "spatial": self._spatial}


class TensorflowInception:
    """clean-fid's `legacy_tensorflow`: NVIDIA's TorchScript network, which resizes as TensorFlow 1 does.

    Output "features" [B, 2048].
    """

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        self.network, digest = _torchscript(weights, device, resize_inside=True)
        self.device, self.fingerprint = device, hash_json(["clean-fid legacy_tensorflow", digest])

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"features": self.network(_as_clean_fid(pixels).to(self.device))}


class CleanInception:
    """clean-fid's `clean`: Pillow bicubic resize per channel in float32, antialiased, not quantised.

    Output "features" [B, 2048].
    """

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        self.network, digest = _torchscript(weights, device, resize_inside=False)
        self.device, self.fingerprint = device, hash_json(["clean-fid clean", digest])
        self._resize = build_resizer("clean")

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        resized = [torch.from_numpy(self._resize(image.numpy())) for image in pixels.permute(0, 2, 3, 1).cpu()]
        return {"features": self.network(torch.stack(resized).permute(0, 3, 1, 2).contiguous().to(self.device))}


def _as_clean_fid(pixels: Tensor) -> Tensor:
    """clean-fid divides and multiplies by 255; some integers do not survive exactly."""
    return pixels.float().div(255).mul(255)


def _torchscript(weights: Path | None, device: torch.device, *, resize_inside: bool) -> tuple[nn.Module, str]:
    """The network in clean-fid's wrapper, and the hash of its file."""
    path, name = locate("inception_torchscript", weights), EVAL_WEIGHTS["inception_torchscript"].local.name
    if path.name != name:
        raise CheckpointError(f"{path} must be called {name}: clean-fid loads it by this name")
    try:
        network = InceptionV3W(str(path.parent), download=False, resize_inside=resize_inside)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is damaged or not the TorchScript Inception: {reason}") from None
    return network.eval().to(device), hash_file(path)
