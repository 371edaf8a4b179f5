"""The ranks of a run: how they meet, agree and part. Collective where nothing else is said."""

import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from torch import distributed as dist
from torch.distributed import HashStore, rendezvous  # type: ignore[attr-defined]  # public, yet not re-exported

from fpd_core.config import ConfigError

T = TypeVar("T")


class Store(Protocol):
    """Texts and counters that all ranks of a process group share."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes:
        """The value, as soon as there is one."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all have a value."""
        ...

    def add(self, key: str, amount: int) -> int:
        """The counter after adding."""
        ...


def meet(backend: str, limit_seconds: float) -> Store:
    """Join the process group. Waits for all; a plain `python` start becomes a group of one, which needs no network.

    Returns:
        A store that all ranks share.

    Raises:
        ConfigError: the address is taken or unknown, or a rank did not come within the limit.
    """
    limit = timedelta(seconds=limit_seconds)
    rank, world = int(os.environ.setdefault("RANK", "0")), int(os.environ.setdefault("WORLD_SIZE", "1"))
    os.environ.setdefault("LOCAL_RANK", "0")
    try:
        store: Any = _rendezvous(rank, world, limit) if world > 1 else HashStore()
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    except RuntimeError as error:
        if not is_lost_contact(error):
            raise
        if world == 1:
            raise ConfigError(f"torch finds no network interface on {socket.gethostname()}, not even 'lo'") from None
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConfigError(
            f"rank {rank} of {world} on {socket.gethostname()} cannot meet the others at {place} "
            f"({str(error).splitlines()[0]}); if another job uses that port, give the launcher another --master_port"
        ) from None
    shared: Store = store
    return shared


def _rendezvous(rank: int, world: int, limit: timedelta) -> Any:
    return next(iter(rendezvous("env://", rank, world, timeout=limit)))[0]


def leave() -> None:
    """Leave the process group. Not collective."""
    if dist.is_initialized():
        dist.destroy_process_group()


def largest(value: int, device: torch.device) -> int:
    """The largest `value` of all ranks."""
    if dist.get_world_size() == 1:
        return value
    vote = torch.tensor([value], device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MAX)
    return int(vote.item())


def is_lost_contact(error: RuntimeError) -> bool:
    """Whether an error of a collective call means that another rank is gone. Not collective."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)  # gloo has no exceptions of its own


def barrier() -> None:
    """Wait for every rank."""
    dist.barrier()


def gather(value: T) -> list[T]:
    """`value` of every rank, in the order of ranks, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def share(items: Sequence[T]) -> Sequence[T]:
    """This rank's part of a list that all ranks have. Not collective."""
    return items[dist.get_rank() :: dist.get_world_size()]


def together(work: Callable[[], T]) -> T:
    """`work()` of this rank. What it raises on any rank (ValueError, OSError) is raised on all: none waits in vain."""
    result: Any = None
    problem: Exception | None = None
    try:
        result = work()
    except (ValueError, OSError) as error:
        problem = error
    for found in gather(problem):
        if found is not None:
            raise found
    done: T = result
    return done


def decided_by_rank_0(decide: Callable[[], T]) -> T:
    """What `decide()` returns or raises (ValueError, OSError) on rank 0, on every rank."""
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome = [decide(), None]
        except (ValueError, OSError) as error:
            outcome = [None, error]
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    decided: T = outcome[0]
    return decided
