"""Training the scenes' teacher: masked token modelling with caption dropout, the text tower frozen."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fpd_core.checkpoints import cast, save_folder
from fpd_core.conditioning import PromptCondition, TextCondition
from fpd_core.config import Config, Share
from fpd_core.masking import remask
from fpd_core.networks.patch_tokenizer import load_patch_tokenizer
from fpd_core.networks.scene_text import load_scene_text
from fpd_core.networks.scene_transformer import SceneTransformer, SceneTransformerConfig
from fpd_core.sampling import sample
from fpd_core.scenes.draw import SPRITES
from fpd_core.schedules import Schedule, mask_ratio
from fpd_core.teachers.scenes import ScenesTeacher
from fpd_train.batch import Batch
from fpd_train.data.scenes import Scenes
from fpd_train.methods.interface import AS_THE_RUN_SAYS, Forward, Parts, Report
from fpd_train.pretrain.scene_text import exchange_relation
from fpd_train.seeds import seeded

GRID_STEPS = 16
GRID_PROMPTS = (
    *("a photo of a dog", "a photo of a tv", "a photo of a cat and a car", "a photo of a bird and a cup"),
    *("a photo of three dogs", "a photo of four cars", "a photo of a blue apple", "a photo of a green cup"),
    *("a photo of a dog left of a cup", "a photo of a dog right of a cup", "a photo of a car above a bird"),
    *("a photo of a car below a bird", "a photo of a red bus and a blue dog", "a photo of a blue bus and a red dog"),
    *("a photo of a black cup and a pink car", "a photo of a red apple and a dog"),
)
QUALITY_BATCHES = 32
GAP_EVERY, GAP_SCENES, GAP_SEED = 100, 128, 2**31


class MaskedTextModelTraining(Config):
    """A text-conditional masked transformer over the codes of a trained tokenizer."""

    name: Literal["masked_text_model"] = "masked_text_model"
    tokenizer: Path = Field(Path("assets/scenes/tokenizer"), description="Weight folder of the tokenizer.")
    text: Path = Field(Path("assets/scenes/text"), description="Weight folder of the text tower.")
    sprites: Path = Field(SPRITES, description="Folder of the sprite sheet, for the relation gap's own scenes.")
    network: SceneTransformerConfig = Field(SceneTransformerConfig(), description="Sizes; must fit tokenizer and text.")
    schedule: Schedule = Field("arccos", description="Law of the masked share.")
    caption_dropout: Share = Field(0.1, description="Share of captions replaced by the empty one.")


class MaskedTextModelMethod:
    """Cross-entropy on masked tokens."""

    product = "teacher"
    settings = AS_THE_RUN_SAYS
    drafts_per_condition = 1

    def __init__(self, config: MaskedTextModelTraining, parts: Parts) -> None:
        self._config = config
        network = SceneTransformer(config.network)
        # Tokenizer, text tower and null caption; the trained network stays outside of the frozen teacher.
        self._text = load_scene_text(config.text)
        tokenizer = load_patch_tokenizer(config.tokenizer)
        self._frozen = ScenesTeacher(SceneTransformer(config.network), tokenizer, self._text).to(parts.device)
        if self._frozen.codebook_size != config.network.codebook_size:
            raise ValueError(
                f"method.network.codebook_size is {config.network.codebook_size}, "
                f"{config.tokenizer} holds {self._frozen.codebook_size} codes"
            )
        self.networks: Mapping[str, nn.Module] = {"teacher": network.to(parts.device)}
        self._gap_due = True
        self._gap: Report = {}
        self._gap_batch = self._relations()

    def phases(self, step: int) -> Sequence[str]:
        self._gap_due = step % GAP_EVERY == 0 or not self._gap
        return ["teacher"]

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        tokens, condition = self._encode(batch)
        dropped = torch.rand(len(tokens), generator=generator, device=tokens.device) < self._config.caption_dropout
        null = self._frozen.null_condition(condition)
        assert isinstance(null, TextCondition)
        text = torch.where(dropped[:, None, None], null.tokens, condition.tokens)
        loss, hits = self._cross_entropy(forward[phase], tokens, text, generator)
        if self._gap_due:
            self._gap = self._relation_gap(forward[phase])
        return loss, {"loss": loss.item(), "accuracy": hits.item()} | self._gap

    def _encode(self, batch: Batch) -> tuple[Tensor, TextCondition]:
        if batch.images is None or not isinstance(batch.condition, PromptCondition):
            raise ValueError("the masked text model learns from images with captions; set data.name to scenes")
        condition = self._frozen.condition(batch.condition)
        assert isinstance(condition, TextCondition)
        with torch.no_grad():
            return self._frozen.tokenizer.encode(batch.images), condition

    def _cross_entropy(
        self, network: Forward, tokens: Tensor, text: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mean loss and accuracy at masked positions."""
        uniform = torch.rand(len(tokens), generator=generator, device=tokens.device)
        ratio = mask_ratio(uniform, self._config.schedule)
        visible, is_masked = remask(tokens, ratio, self._config.network.mask_id, generator)
        logits = network(visible, text)[is_masked].float()
        loss = F.cross_entropy(logits, tokens[is_masked])
        return loss, (logits.argmax(-1) == tokens[is_masked]).float().mean()

    def _relations(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of fixed position scenes, their text features, and those with the relation word exchanged."""
        data = Scenes(sprites=self._config.sprites, task_weights={"position": 1.0})
        batch = next(data.open(batch_size=GAP_SCENES, seed=GAP_SEED, rank=0, world=1, start=0))
        tokens, condition = self._encode(batch.to(self._frozen.device))
        assert isinstance(batch.condition, PromptCondition)
        exchanged = self._frozen.encode([exchange_relation(prompt) for prompt in batch.condition.prompts])
        return tokens, condition.tokens, exchanged.tokens

    @torch.no_grad()
    def _relation_gap(self, network: Forward) -> Report:
        """Loss at full mask, and what exchanging the relation word adds to it, in nats per token."""
        tokens, *texts = self._gap_batch
        masked = torch.full_like(tokens, self._config.network.mask_id)
        right, wrong = (F.cross_entropy(network(masked, t).float().transpose(1, 2), tokens) for t in texts)
        return {"full_mask_loss": right.item(), "relation_gap": (wrong - right).item()}

    def grid(self, averaged: Mapping[str, nn.Module], generator: torch.Generator) -> Tensor:
        teacher = self._teacher(averaged["teacher"])
        condition = teacher.condition(GRID_PROMPTS)
        tokens = sample(teacher, condition, GRID_STEPS, generator=generator)
        return teacher.decode(teacher.codebook[tokens], condition).clamp(0, 1)

    @torch.no_grad()
    def quality(self, averaged: Mapping[str, nn.Module], validation: Iterator[Batch]) -> Report:
        scores = []
        for index in range(QUALITY_BATCHES):
            tokens, condition = self._encode(next(validation))
            generator = seeded("quality", index, device=tokens.device)
            scores.append(torch.stack(self._cross_entropy(averaged["teacher"], tokens, condition.tokens, generator)))
        loss, hits = torch.stack(scores).mean(0)
        return {"cross_entropy_nats": float(loss), "accuracy": float(hits)} | self._relation_gap(averaged["teacher"])

    def export(self, folder: Path, averaged: Mapping[str, nn.Module], card: str) -> None:
        teacher = self._teacher(averaged["teacher"])
        config = {"format_version": 1, "architecture": teacher.architecture()}
        save_folder(folder, config, cast(teacher.state_dict(), torch.float16), card)

    def _teacher(self, network: nn.Module) -> ScenesTeacher:
        assert isinstance(network, SceneTransformer)
        return ScenesTeacher(network, self._frozen.tokenizer, self._text)
