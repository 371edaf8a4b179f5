"""Soft-Di[M]O as a method: Di[M]O as the anchor, and a GAN on soft embeddings. Its program is not public: what is known
and what is guessed stands in `fpd_core.rivals.soft_dimo`. The reward term and test-time optimisation are left out.

Further guesses: which layers have heads (at the quarters of the depth), the heads' optimizer (the run's, unclipped),
the weight w_GAN (1; the paper's longer MaskBit run has 200).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.conditioning import Condition, network_input
from fpd_core.config import Share, Weight, Whole
from fpd_core.networks.token_heads import TokenHeads
from fpd_core.rivals.soft_dimo import discriminator_loss, generator_loss, masked_embeddings
from fpd_core.ste import soft_embedding
from fpd_train.batch import Batch
from fpd_train.methods.dimo import AUXILIARY, DimoMethod, DimoSettings
from fpd_train.methods.interface import Forward, NetworkSettings, Parts, Report
from fpd_train.methods.real_tokens import real_tokens
from fpd_train.methods.rival import open_in_the_middle, uniform
from fpd_train.methods.student import STUDENT

HEADS = "heads"
Layer = Annotated[Whole, Field(ge=0, le=255)]


class SoftDimoConfig(DimoSettings):
    """Soft-Di[M]O: Di[M]O with an adversarial term."""

    name: Literal["soft_dimo"] = "soft_dimo"
    gan_weight: Weight = Field(1.0, description="w_GAN, against Di[M]O's sum over positions and codes.")
    layers: tuple[Layer, ...] | None = Field(
        None, min_length=1, max_length=64, description="The teacher's blocks with heads; null: at the depth's quarters."
    )
    highest_mask_share: Share = Field(0.95, description="Embeddings are hidden at a share r ~ U[0, this].")

    @property
    def image_use(self) -> str:
        """What the run needs real images for."""
        return "method soft_dimo compares with real images"


class SoftDimoMethod(DimoMethod):
    """Student, auxiliary and heads in turns."""

    def __init__(self, config: SoftDimoConfig, parts: Parts) -> None:
        super().__init__(config, parts, needs_images=True)
        self._soft = config
        self._backbone = open_in_the_middle(self.teacher.network, "method soft_dimo")
        depth, width = self._backbone.config.depth, self._backbone.config.width
        quarters = {depth * quarter // 4 - 1 for quarter in range(1, 5)} - {-1}
        self._layers = sorted(quarters if config.layers is None else config.layers)
        if self._layers[-1] >= depth:
            raise ValueError(f"method.layers names block {self._layers[-1]}, the teacher's are 0 to {depth - 1}")
        heads = TokenHeads(len(self._layers), width).to(parts.device)
        self.networks = {**self.networks, HEADS: heads}
        self.settings = {**self.settings, HEADS: NetworkSettings(clip=0.0, precision="float32")}

    def loss(
        self, phase: str, batch: Batch, forward: Mapping[str, Forward], generator: torch.Generator, step: int
    ) -> tuple[Tensor, Report]:
        condition = self.condition(batch)
        if phase == AUXILIARY:
            return super().loss(phase, batch, forward, generator, step)
        if phase == HEADS:
            return self._heads_loss(batch, condition, forward, generator)
        draft = self.draw(forward[STUDENT], condition, generator)
        anchor, report = self.student_loss(condition, draft, forward)
        adversarial = self._adversarial(self._soft_tokens(draft.logits), condition, forward[HEADS], generator)
        loss = anchor + self._soft.gan_weight * adversarial
        return loss, report | {"loss_gan": adversarial.item()}

    def _adversarial(self, fake: Tensor, condition: Condition, heads: Forward, generator: torch.Generator) -> Tensor:
        """-log D of soft embeddings. Its gradient is taken at them, so that none reaches the heads' weights."""
        leaf = fake.detach().requires_grad_()
        value = generator_loss(heads(self._seen(leaf, condition, generator)))
        (push,) = torch.autograd.grad(value, leaf)
        linear = (fake * push).sum()
        return value.detach() + (linear - linear.detach())

    def _heads_loss(
        self, batch: Batch, condition: Condition, forward: Mapping[str, Forward], generator: torch.Generator
    ) -> tuple[Tensor, Report]:
        """Real tokens' embeddings against soft ones of fresh drafts; both pass the heads in one call."""
        with torch.no_grad():
            fake = self._soft_tokens(self.draw(forward[STUDENT], condition, generator).logits)
            real = self._codes[real_tokens(self.teacher, batch)]
            both = torch.cat([fake, real])
            features = self._seen(both, condition, generator)
        logits = forward[HEADS](features)
        loss = discriminator_loss([one[: len(fake)] for one in logits], [one[len(fake) :] for one in logits])
        return loss, {"loss_heads": loss.item()}

    @property
    def _codes(self) -> Tensor:
        """E [K, width], the teacher's token embedding."""
        return self._backbone.tok_emb.weight[: self.teacher.codebook_size]

    def _soft_tokens(self, logits: Tensor) -> Tensor:
        """ẽ [B, L, width]."""
        return soft_embedding(logits, self._codes)

    def _seen(self, embeddings: Tensor, condition: Condition, generator: torch.Generator) -> list[Tensor]:
        """Features of the frozen teacher at embeddings hidden at r ~ U[0, highest]."""
        seen = torch.cat([network_input(condition)] * (len(embeddings) // len(condition)))
        share = self._soft.highest_mask_share * uniform((len(embeddings),), generator, embeddings)
        places = uniform(embeddings.shape[:2], generator, embeddings)
        mask = self._backbone.tok_emb.weight[self.teacher.mask_id]
        hidden = masked_embeddings(embeddings, mask, share, places)
        with torch.autocast(self.teacher.device.type, torch.bfloat16, enabled=self.teacher.autocast):
            return [one.float() for one in self._backbone.features(hidden, seen, self._layers)]
