"""Training the VQ tokenizer: reconstruction, a perceptual term and a codebook that stays in use."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.backbones.efficientnet_lite0 import EfficientNetLite0
from fpd_core.checkpoints import cast, save_folder
from fpd_core.config import Config, Number
from fpd_core.networks.vq_tokenizer import VqTokenizer, VqTokenizerConfig
from fpd_train.batch import Batch
from fpd_train.methods.interface import AS_THE_RUN_SAYS, Forward, Parts, Report

QUALITY_BATCHES = 16


class TokenizerTraining(Config):
    """A VQ tokenizer trained from images."""

    name: Literal["tokenizer"] = "tokenizer"
    tokenizer: VqTokenizerConfig = Field(VqTokenizerConfig(), description="Its codes and channels.")
    perceptual_weight: Number = Field(
        0.2, ge=0, le=1e3, description="Weight of feature distances; sharpens what L1 blurs."
    )
    commitment_weight: Number = Field(0.25, ge=0, le=1e3, description="Of the encoder's distance to its codes.")
    codebook_decay: Number = Field(0.99, gt=0, lt=1, description="The codebook follows its latents by this average.")
    dead_code_threshold: Number = Field(
        2.0, ge=0, le=1e6, description="Codes used less often than this per batch are moved onto live latents."
    )


class _Quantized(nn.Module):
    """Tokenizer and its training-time quantiser: images -> (reconstruction, commitment loss, tokens)."""

    def __init__(self, config: TokenizerTraining) -> None:
        super().__init__()
        self.tokenizer = VqTokenizer(config.tokenizer)
        from vector_quantize_pytorch import VectorQuantize  # for seconds

        self.quantizer = VectorQuantize(
            dim=config.tokenizer.code_dim,
            codebook_size=config.tokenizer.codebook_size,
            decay=config.codebook_decay,
            threshold_ema_dead_code=config.dead_code_threshold,
            commitment_weight=config.commitment_weight,
            kmeans_init=True,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, tokens, commitment = self.quantizer(self.tokenizer.latents(images))
        return self.tokenizer.decode(quantized), commitment.sum(), tokens


class TokenizerMethod:
    """L1 + perceptual distance + commitment."""

    product = "tokenizer"
    settings = AS_THE_RUN_SAYS
    drafts_per_condition = 1

    def __init__(self, config: TokenizerTraining, parts: Parts) -> None:
        self._config, self._device = config, parts.device
        self._network = _Quantized(config).to(parts.device)
        self.networks: Mapping[str, nn.Module] = {"tokenizer": self._network}
        self._backbone = EfficientNetLite0(blocks=(0, 1, 2), image_size=64).to(parts.device)
        self._shown: Tensor | None = None

    def phases(self, step: int) -> Sequence[str]:
        return ["tokenizer"]

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        images = _images(batch)
        self._shown = images[:30] if self._shown is None else self._shown
        reconstruction, commitment, tokens = forward[phase](images)
        l1 = (reconstruction - images).abs().mean()
        perceptual = self._perceptual(reconstruction, images)
        loss = l1 + self._config.perceptual_weight * perceptual + commitment
        numbers = {"loss": loss, "l1": l1, "perceptual": perceptual, "commitment": commitment}
        return loss, {k: v.item() for k, v in numbers.items()} | {"codes": float(len(tokens.unique()))}

    def _perceptual(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared distance of channel-normalised features, averaged over places, summed over depths."""
        with torch.no_grad():
            wanted = self._backbone(b)
        pairs = zip(self._backbone(a), wanted, strict=True)
        distances = [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean() for x, y in pairs]
        return torch.stack(distances).sum()

    @torch.no_grad()
    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        if self._shown is None:
            raise RuntimeError("a grid needs one training step first")
        tokenizer = self._finished(averaged)
        rebuilt = tokenizer.decode(tokenizer.codebook[tokenizer.encode(self._shown)])
        rows = zip(self._shown.split(10), rebuilt.split(10), strict=True)
        return torch.cat([part for row in rows for part in row])

    @torch.no_grad()
    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        tokenizer, used, l1, squared = self._finished(averaged), set[int](), [], []
        for _ in range(QUALITY_BATCHES):
            images = _images(next(validation))
            tokens = tokenizer.encode(images)
            error = tokenizer.decode(tokenizer.codebook[tokens]) - images
            l1.append(error.abs().mean())
            squared.append(error.square().mean())
            used |= set(tokens.unique().tolist())
        psnr = -10 * torch.stack(squared).mean().log10()
        return {"l1": float(torch.stack(l1).mean()), "psnr_db": float(psnr), "codes_in_use": float(len(used))}

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        config = {"tokenizer": self._config.tokenizer.model_dump()}
        save_folder(folder, config, cast(self._finished(averaged).state_dict(), torch.float16), card)

    def _finished(self, averaged: Mapping[str, nn.Module]) -> VqTokenizer:
        """The averaged tokenizer with the quantiser's codes in its codebook."""
        network = averaged["tokenizer"]
        assert isinstance(network, _Quantized)
        network.tokenizer.codebook.copy_(network.quantizer.codebook)
        return network.tokenizer


def _images(batch: Batch) -> Tensor:
    if batch.images is None:
        raise ValueError("the tokenizer learns from images; set data.name to image_shards")
    return batch.images
