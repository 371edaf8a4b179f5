"""Training the bundled teacher: masked token modelling with class dropout (the MaskGIT recipe)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import cast, save_folder
from fpd_core.conditioning import ClassCondition
from fpd_core.config import Config, Location, Number, Share
from fpd_core.masking import remask
from fpd_core.networks.maskgit import MaskGit, MaskGitConfig
from fpd_core.networks.vq_tokenizer import load_tokenizer
from fpd_core.sampling import sample
from fpd_core.schedules import Schedule, mask_ratio
from fpd_core.teachers.fashion import FashionTeacher
from fpd_train.batch import Batch
from fpd_train.methods.interface import AS_THE_RUN_SAYS, Forward, Parts, Report
from fpd_train.seeds import seeded

GRID_ROWS = 6
GRID_STEPS = 16
QUALITY_BATCHES = 32


class MaskedModelTraining(Config):
    """A class-conditional masked transformer over the codes of a trained tokenizer."""

    name: Literal["masked_model"] = "masked_model"
    tokenizer: Location = Field(Path("assets/fashion/tokenizer"), description="Weight folder of the tokenizer.")
    network: MaskGitConfig = Field(description="Sizes of the transformer; must fit the tokenizer.")
    schedule: Schedule = Field("arccos", description="Law of the masked share.")
    class_dropout: Share = Field(0.1, description="Share of conditions replaced by the null condition.")
    label_smoothing: Share = Field(0.0, description="MaskGIT v1 uses 0.1; it blurs one-step sampling.")
    visible_weight: Number = Field(
        0.0, ge=0, le=1e3, description="Weight of visible positions in the loss; MaskGIT v1 uses 1."
    )


class MaskedModelMethod:
    """Cross-entropy on masked tokens."""

    product = "teacher"
    settings = AS_THE_RUN_SAYS
    drafts_per_condition = 1

    def __init__(self, config: MaskedModelTraining, parts: Parts) -> None:
        self._config = config
        self._tokenizer = load_tokenizer(config.tokenizer).to(parts.device)
        if len(self._tokenizer.codebook) != config.network.codebook_size:
            raise ValueError(
                f"method.network.codebook_size is {config.network.codebook_size}, "
                f"{config.tokenizer} holds {len(self._tokenizer.codebook)} codes"
            )
        self.networks: Mapping[str, nn.Module] = {"teacher": MaskGit(config.network).to(parts.device)}

    def phases(self, step: int) -> Sequence[str]:
        return ["teacher"]

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        tokens, labels = self._encode(batch)
        dropped = torch.rand(labels.shape, generator=generator, device=labels.device) < self._config.class_dropout
        labels = labels.masked_fill(dropped, self._config.network.dropped_class)
        masked_loss, visible_loss, hits = self._cross_entropy(forward[phase], tokens, labels, generator)
        loss = masked_loss + self._config.visible_weight * visible_loss
        return loss, {"loss": masked_loss.item(), "accuracy": hits.item()}

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.images is None or not isinstance(batch.condition, ClassCondition):
            raise ValueError("the masked model learns from labelled images; set data.name to image_shards")
        with torch.no_grad():
            return self._tokenizer.encode(batch.images), batch.condition.labels

    def _cross_entropy(
        self, network: Forward, tokens: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss at masked and at visible positions, and the accuracy at masked ones."""
        uniform = torch.rand(len(tokens), generator=generator, device=tokens.device)
        ratio = mask_ratio(uniform, self._config.schedule)
        visible, is_masked = remask(tokens, ratio, self._config.network.mask_id, generator)
        logits = network(visible, labels).float()
        losses = F.cross_entropy(
            logits.transpose(1, 2), tokens, reduction="none", label_smoothing=self._config.label_smoothing
        )
        hits = (logits.argmax(-1) == tokens)[is_masked].float().mean()
        shown = ~is_masked
        visible_loss = (losses * shown).sum() / shown.sum().clamp_min(1)
        return losses[is_masked].mean(), visible_loss, hits

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        teacher = self._teacher(averaged["teacher"])
        condition = teacher.condition(torch.arange(teacher.classes).repeat(GRID_ROWS))
        tokens = sample(teacher, condition, GRID_STEPS, generator=generator)
        return teacher.decode(teacher.codebook[tokens], condition)

    @torch.no_grad()
    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        scores = []
        for index in range(QUALITY_BATCHES):
            tokens, labels = self._encode(next(validation))
            generator = seeded("quality", index, device=tokens.device)
            loss, _, hits = self._cross_entropy(averaged["teacher"], tokens, labels, generator)
            scores.append(torch.stack([loss, hits]))
        loss, hits = torch.stack(scores).mean(0)
        return {"cross_entropy_nats": float(loss), "accuracy": float(hits)}

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        teacher = self._teacher(averaged["teacher"])
        config = {"architecture": teacher.architecture()}
        save_folder(folder, config, cast(teacher.state_dict(), torch.float16), card)

    def _teacher(self, network: nn.Module) -> FashionTeacher:
        assert isinstance(network, MaskGit)
        return FashionTeacher(network, self._tokenizer)
