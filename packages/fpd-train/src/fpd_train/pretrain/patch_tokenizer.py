"""Training the tokenizer of the scenes: reconstruction and edges, the codebook built after the encoder has settled."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fpd_core.checkpoints import cast, save_folder
from fpd_core.config import Config, Share, Weight, Whole
from fpd_core.networks.patch_tokenizer import PatchTokenizer, PatchTokenizerConfig, load_patch_tokenizer
from fpd_train.batch import Batch
from fpd_train.methods.interface import AS_THE_RUN_SAYS, Forward, Parts, Report

QUALITY_BATCHES = 16


class PatchTokenizerTraining(Config):
    """A tokenizer of single patches."""

    name: Literal["patch_tokenizer"] = "patch_tokenizer"
    tokenizer: PatchTokenizerConfig = Field(PatchTokenizerConfig(), description="Its codes and channels.")
    start: Path | None = Field(
        None, description="A trained tokenizer: its encoder and codes stay as they are, the decoder learns on."
    )
    free_steps: Whole = Field(
        300, ge=0, le=10**9, description="Steps without quantiser; k-means then makes the codebook."
    )
    squared_weight: Weight = Field(4.0, description="Weight of the squared error beside L1.")
    edge_weight: Weight = Field(0.5, description="Weight of L1 between neighbouring pixels' differences.")
    commitment_weight: Weight = Field(0.25, description="Of the encoder's distance to its codes.")
    codebook_decay: Share = Field(0.98, gt=0, description="The codebook follows its latents by this average.")
    dead_code_threshold: Weight = Field(0.2, description="Codes with a lower average use per batch are replaced.")


class _Quantized(nn.Module):
    """Tokenizer and its training-time quantiser: images -> (reconstruction, commitment loss, tokens)."""

    def __init__(self, config: PatchTokenizerTraining) -> None:
        super().__init__()
        self.tokenizer = PatchTokenizer(config.tokenizer)
        if config.start is not None:
            self.tokenizer.load_state_dict(load_patch_tokenizer(config.start).state_dict())
            self.tokenizer.encoder.requires_grad_(False)
        self.codes_stay = config.start is not None
        from vector_quantize_pytorch import VectorQuantize  # for seconds

        self.quantizer = VectorQuantize(
            dim=config.tokenizer.code_dim,
            codebook_size=config.tokenizer.codebook_size,
            decay=config.codebook_decay,
            threshold_ema_dead_code=config.dead_code_threshold,
            commitment_weight=config.commitment_weight,
            kmeans_init=True,
        )
        self._free_steps = config.free_steps
        # A buffer, so that a resumed run knows where it was.
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.codes_stay:
            tokens = self.tokenizer.encode(images)
            return self.tokenizer.decode(self.tokenizer.codebook[tokens]), torch.zeros((), device=images.device), tokens
        self.calls += 1
        latents = self.tokenizer.latents(images)
        if self.calls <= self._free_steps:
            nothing = torch.zeros((), device=images.device)
            return self.tokenizer.decode(latents), nothing, torch.zeros_like(latents[..., 0], dtype=torch.int64)
        quantized, tokens, commitment = self.quantizer(latents)
        return self.tokenizer.decode(quantized), commitment.sum(), tokens


class PatchTokenizerMethod:
    """L1 + squared error + edges + commitment."""

    product = "tokenizer"
    settings = AS_THE_RUN_SAYS
    drafts_per_condition = 1

    def __init__(self, config: PatchTokenizerTraining, parts: Parts) -> None:
        self._config = config
        self.networks: Mapping[str, nn.Module] = {"tokenizer": _Quantized(config).to(parts.device)}
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
        squared = (reconstruction - images).square().mean()
        edges = _edge_distance(reconstruction, images)
        loss = l1 + self._config.squared_weight * squared + self._config.edge_weight * edges + commitment
        report = {"loss": loss, "l1": l1, "commitment": commitment, "psnr_db": -10 * squared.log10()}
        return loss, {k: v.item() for k, v in report.items()} | {"codes": float(len(tokens.unique()))}

    @torch.no_grad()
    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        if self._shown is None:
            raise RuntimeError("a grid needs one training step first")
        tokenizer = _finished(averaged)
        rebuilt = tokenizer.decode(tokenizer.codebook[tokenizer.encode(self._shown)])
        rows = zip(self._shown.split(10), rebuilt.split(10), strict=True)
        return torch.cat([part for row in rows for part in row])

    @torch.no_grad()
    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        tokenizer, used, squared = _finished(averaged), set[int](), []
        for _ in range(QUALITY_BATCHES):
            images = _images(next(validation))
            tokens = tokenizer.encode(images)
            squared.append((tokenizer.decode(tokenizer.codebook[tokens]).clamp(0, 1) - images).square().mean())
            used |= set(tokens.unique().tolist())
        return {"psnr_db": float(-10 * torch.stack(squared).mean().log10()), "codes_in_use": float(len(used))}

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        config = {"format_version": 1, "tokenizer": self._config.tokenizer.model_dump()}
        save_folder(folder, config, cast(_finished(averaged).state_dict(), torch.float16), card)


def _finished(averaged: Mapping[str, nn.Module]) -> PatchTokenizer:
    """The averaged tokenizer with the quantiser's codebook as its own, where one was trained."""
    network = averaged["tokenizer"]
    assert isinstance(network, _Quantized)
    if not network.codes_stay:
        network.tokenizer.codebook.copy_(network.quantizer.codebook)
    return network.tokenizer


def _edge_distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels along both axes."""
    error = a - b
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def _images(batch: Batch) -> Tensor:
    if batch.images is None:
        raise ValueError("the tokenizer learns from images; set data.name to scene_closeups or scenes")
    return batch.images
