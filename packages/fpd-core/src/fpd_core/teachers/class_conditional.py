"""What the class-conditional families share: labels, the dropped class, a last column that scores the mask id."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fpd_core.conditioning import ClassCondition, Condition, network_input
from fpd_core.teachers.teacher import Teacher


class ClassConditionalTeacher(Teacher):
    """A teacher over a transformer of tokens and labels; families add the decoder.

    Args:
        network: (tokens [B, L], labels [B], σ, generator) -> [B, L, K + 1]; its `config` tells `mask_id`, `seq_len` and
            `num_classes`, which is the dropped class as well.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        sizes: Any = network.config
        self.network = network
        self.mask_id, self.seq_len = sizes.mask_id, sizes.seq_len
        self.classes = self.num_classes = sizes.num_classes

    def condition(self, wanted: Any) -> Condition:
        try:
            labels = wanted.labels if isinstance(wanted, ClassCondition) else torch.as_tensor(wanted)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"this model draws classes 0 to {self.classes - 1}, not {wanted!r}") from None
        labels = labels.to(self.device).long().flatten()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ValueError(f"labels must lie in 0 to {self.classes - 1}, got {labels.unique().tolist()}")
        return ClassCondition(labels)

    def null_condition(self, condition: Condition) -> Condition:
        return ClassCondition(torch.full((len(condition),), self.classes, device=self.device))

    def logits(
        self,
        tokens: Tensor,
        condition: Condition,
        *,
        network: Callable[..., Tensor] | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        scores = self._run(network, tokens, network_input(condition), embedding_noise, generator)
        # The last column scores the mask id, which is no code and must never be drawn.
        return scores[..., : self.codebook_size]
