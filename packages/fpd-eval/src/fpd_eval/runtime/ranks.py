"""Processes that share one measurement: started by torchrun or deepspeed, or one alone."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")
# Ranks meet only between passes over the images, and one may have far more left to do after a resume.
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Ranks:
    """This process's place. Methods but `share` and `is_main` are collective: every rank calls them."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `world_size`-th item: this rank's part of the work."""
        return items[self.rank :: self.world_size]

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def from_main(self, value: Item) -> Item:
        """The main rank's `value`, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks of this launch. Only small messages pass, features travel as files, so gloo serves GPUs too."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """`cuda` without an index is the GPU of this rank on its machine."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device
