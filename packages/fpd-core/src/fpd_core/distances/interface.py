"""What every distance between the student's features and the reference's is: one problem per map, one gradient each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fpd_core.conditioning import Condition, identity
from fpd_core.config import Config
from fpd_core.drift import Normalisation, OwnTarget, Weighting, pulled_back

Conditions = Literal["separate", "pooled"]


class DistanceConfig(Config):
    """A distance by name. Fields of the objective outside `uses` have no meaning for it and keep their defaults."""

    uses: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_several_drafts(self) -> bool:
        """Whether one draft per condition leaves nothing to compare."""
        return False

    @property
    def remembers(self) -> bool:
        """Whether earlier steps take part, so that all ranks must see the same samples."""
        return False

    @property
    def needs_samples(self) -> bool:
        """Whether it is made from samples of the teacher, whatever the reference is."""
        return False


class Settings(Protocol):
    """What a distance may read of the objective's section."""

    @property
    def bandwidths(self) -> tuple[float, ...]: ...
    @property
    def weighting(self) -> Weighting: ...
    @property
    def own_target(self) -> OwnTarget: ...
    @property
    def normalisation(self) -> Normalisation: ...


@dataclass(frozen=True)
class Scene:
    """Where a distance works: (F, D) of every map, the number of classes (None: captions), and features [N, F, D] of
    the teacher's samples, one per map, where it `needs_samples`."""

    maps: Sequence[tuple[int, int]] = ()
    num_classes: int | None = None
    samples: Sequence[Tensor] = ()


class Block(Protocol):
    """One map's share: `loss`, a scalar with grad, and its `gradient` [B, F, D] by the student, detached."""

    @property
    def loss(self) -> Tensor: ...
    @property
    def gradient(self) -> Tensor: ...


class Distance(nn.Module, ABC):
    """A distance between two samples of feature maps. It has no parameters; buffers are what it remembers."""

    @abstractmethod
    def forward(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        gather: bool = False,
    ) -> Sequence[Block]:
        """One block per map. One that remembers has a step's whole batch in one call.

        Args:
            features: X [B, F, D] of each map, with grad or without.
            targets: Y [B, F, D] of each map, treated as constant; Y_i belongs to the condition of X_i.
            conditions: of the B samples, one batch or several behind each other.
            gather: let samples of all ranks take part. Collective: call on every rank with equal shapes.

        Raises:
            ValueError: shapes differ or are not [B, F, D], or nothing can be compared.
        """

    @abstractmethod
    def report(self, blocks: Sequence[Block], maps: Sequence[str]) -> dict[str, float]:
        """Numbers to log of what `forward` returned, whose maps have these names."""


@dataclass(frozen=True)
class Compared:
    """A block. `numbers`, detached: means over the maps are logged as `name`, those of a map as `name/map`."""

    loss: Tensor
    gradient: Tensor
    numbers: Mapping[str, Tensor]


class MapDistance(Distance):
    """A distance whose maps are problems of their own, each given as a function that autograd can follow."""

    @abstractmethod
    def measure(self, index: int, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of map `index` and its numbers, from all samples in float64.

        Args:
            x, y: [B, F, D]; what x gets no gradient through is a constant of this call.
            rows: [B, E], equal where conditions are; a class is its label.
        """

    def forward(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        gather: bool = False,
    ) -> list[Compared]:
        rows = torch.cat([identity(condition) for condition in conditions])
        pairs = enumerate(zip(features, targets, strict=True))
        return [self._block(index, x, y, rows, gather) for index, (x, y) in pairs]

    def _block(self, index: int, student: Tensor, target: Tensor, rows: Tensor, gather: bool) -> Compared:
        if student.ndim != 3 or student.shape != target.shape or len(rows) != len(student):
            raise ValueError(
                f"student {tuple(student.shape)}, target {tuple(target.shape)} and {len(rows)} conditions must be one "
                "batch [B, F, D]"
            )
        wide = torch.promote_types(student.dtype, torch.float32)
        with torch.autocast(student.device.type, enabled=False), torch.enable_grad():
            own = student.to(wide)
            (x, y, rows), first, world = gathered((own.detach(), target.detach().to(wide), rows), gather)
            x, y = x.double(), y.double()
            leaf = x.requires_grad_()
            value, numbers = self.measure(index, leaf, y, rows)
            (whole,) = torch.autograd.grad(value, leaf)
            # Ranks average their gradients, and each has the whole value as its loss.
            gradient = (world * whole[first : first + len(own)]).to(wide)
            mine, numbers = y[first : first + len(own)] - x.detach()[first : first + len(own)], dict(numbers)
            numbers["alignment"] = torch.nn.functional.cosine_similarity(-gradient, mine.to(wide), dim=2).mean()
        loss = value.detach().to(wide) + pulled_back(own, gradient)
        return Compared(loss, gradient, {name: number.detach() for name, number in numbers.items()})

    def report(self, blocks: Sequence[Block], maps: Sequence[str]) -> dict[str, float]:
        found = [block.numbers for block in blocks if isinstance(block, Compared)]
        report = {name: float(torch.stack([numbers[name] for numbers in found]).mean()) for name in found[0]}
        for name, numbers in zip(maps, found, strict=True):
            report |= {f"{key}/{name}": float(value) for key, value in numbers.items()}
        return report


def gathered(local: tuple[Tensor, ...], gather: bool) -> tuple[tuple[Tensor, ...], int, int]:
    """Tensors [B, ...] of all ranks in rank order, the index of this rank's first sample and the number of ranks."""
    if not gather:
        return local, 0, 1
    world, size = dist.get_world_size(), len(local[0])
    everyone = tuple(part.new_empty(world * size, *part.shape[1:]) for part in local)
    for whole, part in zip(everyone, local, strict=True):
        dist.all_gather(list(whole.split(size)), part.contiguous())
    return everyone, dist.get_rank() * size, world


def same_condition(rows: Tensor) -> Tensor:
    """[B, E] -> [B, B] bool: whose conditions are equal."""
    groups = torch.unique(rows, dim=0, return_inverse=True)[1]
    same: Tensor = groups[:, None] == groups[None]
    return same


def distances(a: Tensor, b: Tensor) -> Tensor:
    """[F, N, D], [F, M, D] -> [F, N, M]. Equal points have a zero with a zero gradient."""
    squared = a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2 * (a @ b.mT)
    # Below this the products of float64 have no digits left, and a direction would be made of rounding.
    floor = 1e-14 * (a.square().sum(2).amax() + b.square().sum(2).amax()).detach()
    is_apart = squared > floor
    found: Tensor = torch.where(is_apart, squared, torch.ones_like(squared)).sqrt() * is_apart
    return found
