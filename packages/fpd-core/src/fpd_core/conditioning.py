"""Typed conditions: what an image is asked to show. Every tensor has one row per image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor


class Condition(Protocol):
    """A batch of conditions of one kind."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice) -> Self: ...

    def to(self, device: torch.device | str) -> Self: ...

    def repeat_interleave(self, times: int) -> Self:
        """Each condition `times` in a row: several drafts of one condition share a batch."""
        ...


class _Tensors:
    """The batch operations of a dataclass whose fields are tensors [B, ...]."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{name: change(value) for name, value in vars(self).items()})

    def __getitem__(self, index: slice) -> Self:
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Self:
        return self._map(lambda value: value.to(device))

    def repeat_interleave(self, times: int) -> Self:
        return self._map(lambda value: value.repeat_interleave(times, dim=0))


@dataclass(frozen=True)
class ClassCondition(_Tensors):
    """Class labels [B] int64."""

    labels: Tensor


@dataclass(frozen=True)
class TextCondition(_Tensors):
    """Features of a caption, as a text-conditional family's encoder makes them.

    Attributes:
        tokens: [B, T, D] token features for the transformer.
        pooled: [B, D'] one vector per caption for the transformer.
        decoder: [B, T, D] token features for a text-aware image decoder; the same tensor where the decoder has none.
    """

    tokens: Tensor
    pooled: Tensor
    decoder: Tensor

    @classmethod
    def cat(cls, parts: Sequence["TextCondition"]) -> "TextCondition":
        """Batches one behind the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class PromptCondition:
    """Captions as text, before any encoder has read them: what data sources and users provide."""

    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: slice) -> "PromptCondition":
        return PromptCondition(self.prompts[index])

    def to(self, device: torch.device | str) -> "PromptCondition":
        return self

    def repeat_interleave(self, times: int) -> "PromptCondition":
        return PromptCondition(tuple(prompt for prompt in self.prompts for _ in range(times)))


@dataclass(frozen=True)
class EncodedCaptions:
    """Captions as a text tower has read them before the run.

    Attributes:
        features: what the tower makes of them.
        tower: SHA-256 of that tower, `TextConditionalTeacher.tower`.
    """

    features: TextCondition
    tower: str

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: slice) -> "EncodedCaptions":
        return EncodedCaptions(self.features[index], self.tower)

    def to(self, device: torch.device | str) -> "EncodedCaptions":
        return EncodedCaptions(self.features.to(device), self.tower)

    def repeat_interleave(self, times: int) -> "EncodedCaptions":
        return EncodedCaptions(self.features.repeat_interleave(times), self.tower)


def identity(condition: Condition) -> Tensor:
    """[B, E] float64 rows, equal where conditions are: the label of a class, the pooled features of a caption.

    Raises:
        ValueError: captions that no encoder has read.
    """
    match condition:
        case ClassCondition():
            return condition.labels[:, None].double()
        case TextCondition():
            return condition.pooled.flatten(1).double()
    raise ValueError(f"a {type(condition).__name__} does not say which of its conditions are equal")


def network_input(condition: Condition) -> Tensor:
    """What the transformers of `fpd_core.networks.token_transformer` read of a condition: labels [B] or text features
    [B, T, D].

    Raises:
        ValueError: captions that no encoder has read.
    """
    match condition:
        case ClassCondition():
            return condition.labels
        case TextCondition():
            return condition.tokens
    raise ValueError(f"no network reads a {type(condition).__name__}")


def replaced(condition: Condition, is_replaced: Tensor, other: Condition) -> Condition:
    """Rows of `other` where `is_replaced` [B], else those of `condition`, which is of the same kind.

    Raises:
        ValueError: captions that no encoder has read.
    """
    if not isinstance(condition, _Tensors):
        raise ValueError(f"rows of a {type(condition).__name__} cannot be replaced")
    rows = {
        name: torch.where(is_replaced.view(-1, *[1] * (value.ndim - 1)), vars(other)[name], value)
        for name, value in vars(condition).items()
    }
    return type(condition)(**rows)
