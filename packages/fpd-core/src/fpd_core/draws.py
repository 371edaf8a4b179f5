"""Random numbers of a batch that several ranks share: together they draw what one rank with the whole batch would.

Samples are dealt as data is: condition n of the global order lies on rank n mod world, its drafts side by side.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class SharedGenerator(torch.Generator):
    """One rank's generator. The functions below draw the whole batch from `together`, which is alike on all ranks, and
    keep this rank's rows; whatever else draws from it has numbers of this rank's own.

    Attributes:
        rank, world: whose rows.
        drafts: neighbouring rows that belong to one condition.
    """

    together: torch.Generator
    rank: int
    world: int
    drafts: int

    def get_state(self) -> Tensor:
        """Of both."""
        return torch.stack([super().get_state(), self.together.get_state()])

    def set_state(self, new_state: Tensor) -> "SharedGenerator":
        """What `get_state` gave."""
        own, together = new_state
        super().set_state(own.clone())
        self.together.set_state(together.clone())
        return self


def shared(own: torch.Generator, together: torch.Generator, rank: int, world: int) -> SharedGenerator:
    """A generator that continues `own` alone and `together` with the other ranks."""
    generator = SharedGenerator(own.device)
    torch.Generator.set_state(generator, own.get_state())
    generator.together, generator.rank, generator.world, generator.drafts = together, rank, world, 1
    return generator


def with_drafts(generator: torch.Generator, drafts: int) -> torch.Generator:
    """The same generator, for batches with `drafts` neighbouring rows per condition."""
    if isinstance(generator, SharedGenerator):
        generator.drafts = drafts
    return generator


def uniform(
    *shape: int,
    generator: torch.Generator | None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch: int = 0,
) -> Tensor:
    """U(0, 1) of a shape whose dimension `batch` counts samples."""
    return _mine(
        lambda size, random: torch.rand(size, generator=random, device=device, dtype=dtype), shape, generator, batch
    )


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, 1) with the shape, device and dtype of `like` [B, ...]."""
    return _mine(
        lambda size, random: torch.randn(size, generator=random, device=like.device, dtype=like.dtype),
        tuple(like.shape),
        generator,
    )


def integers(
    low: int, high: int, *shape: int, generator: torch.Generator | None, device: torch.device | str | None = None
) -> Tensor:
    """Uniform in [low, high) of a shape [B, ...]."""
    return _mine(lambda size, random: torch.randint(low, high, size, generator=random, device=device), shape, generator)


def categorical(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One draw from each distribution [B, ..., K] -> [B, ...]: `torch.multinomial`'s, by the least of K exponentials.

    Raises:
        ValueError: a probability is not finite, or is negative.
    """
    # torch.multinomial looks too, and so waits for the device.
    if not bool((probabilities.max() < torch.inf) & (probabilities.min() >= 0)):
        raise ValueError("a probability is not finite, or is negative")
    noise = _mine(
        lambda size, random: probabilities.new_empty(size).exponential_(generator=random),
        tuple(probabilities.shape),
        generator,
    )
    drawn: Tensor = torch.div(probabilities, noise, out=noise).argmax(-1)
    return drawn


def _mine(
    draw: Callable[[tuple[int, ...], torch.Generator | None], Tensor],
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    batch: int = 0,
) -> Tensor:
    """What `draw` gives; of a shared generator this rank's rows of what it gives for the whole batch."""
    if not isinstance(generator, SharedGenerator):
        return draw(shape, generator)
    size, world = shape[batch], generator.world
    whole = draw((*shape[:batch], size * world, *shape[batch + 1 :]), generator.together)
    drafts = generator.drafts if size % generator.drafts == 0 else 1
    dealt: Tensor = whole.unflatten(batch, (size // drafts, world, drafts))
    return dealt.select(batch + 1, generator.rank).flatten(batch, batch + 1)
