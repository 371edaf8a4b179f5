"""Mosaics: 16 tokens of 8 colours, three classes. The smallest family that shows the whole interface."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from fpd_core.checkpoints import load_network
from fpd_core.conditioning import ClassCondition, Condition
from fpd_core.teachers.teacher import SamplerConfig, Teacher, TeacherConfig

CODES, LENGTH, CLASSES, PIXELS_PER_TOKEN = 8, 16, 3, 8
MASK = CODES  # the row after the codes


class ToyNetwork(nn.Module):
    """Two attention layers over tokens and a class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.tokens = nn.Embedding(CODES + 1, width)
        self.classes = nn.Embedding(CLASSES + 1, width)  # the last row means "no class"
        self.positions = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CODES)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """[B, L] and [B] -> [B, L, K]"""
        x = self.tokens(tokens) + self.positions + self.classes(labels)[:, None]
        logits: Tensor = self.head(self.layers(x))
        return logits

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"positions": [self.positions]}


class ToyConfig(TeacherConfig):
    """Where the trained mosaic maker lies."""

    name: Literal["toy"] = "toy"
    path: Path = Path("toy-teacher")


class ToyTeacher(Teacher):
    """Images [B, 3, 32, 32] of 4x4 coloured squares."""

    def __init__(self, network: ToyNetwork) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("codebook", torch.rand(CODES, 3, generator=torch.Generator().manual_seed(0)))
        self.mask_id, self.seq_len, self.num_classes = MASK, LENGTH, CLASSES
        self.image_size = 4 * PIXELS_PER_TOKEN
        self.sampler = SamplerConfig(guidance_scale=2.0, schedule="cosine")
        self.refine_guidance = 2.0
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, config: ToyConfig) -> Self:
        return load_network(config.path, "architecture", cls.from_architecture)

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        return cls(ToyNetwork(architecture["width"]))

    def architecture(self) -> dict[str, Any]:
        return {"name": "toy", "width": self.network.width}

    def condition(self, wanted: Any) -> Condition:
        labels = wanted.labels if isinstance(wanted, ClassCondition) else torch.as_tensor(wanted)
        labels = labels.to(self.device).long().flatten()
        if not ((labels >= 0) & (labels < CLASSES)).all():
            raise ValueError(f"labels must lie in 0 to {CLASSES - 1}, got {labels.unique().tolist()}")
        return ClassCondition(labels)

    def null_condition(self, condition: Condition) -> Condition:
        return ClassCondition(torch.full((len(condition),), CLASSES, device=self.device))

    def logits(
        self,
        tokens: Tensor,
        condition: Condition,
        *,
        network: Callable[..., Tensor] | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if embedding_noise:
            raise ValueError("the toy family has no embedding noise; set objective.embedding_noise to 0")
        return self._run(network, tokens, condition.labels)

    def decode(self, embeddings: Tensor, condition: Condition) -> Tensor:
        grid = embeddings.transpose(1, 2).unflatten(2, (4, 4))
        return grid.repeat_interleave(PIXELS_PER_TOKEN, 2).repeat_interleave(PIXELS_PER_TOKEN, 3)


TOY = ToyConfig, ToyTeacher
