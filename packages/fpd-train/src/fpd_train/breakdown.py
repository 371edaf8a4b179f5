"""Where the time of a step goes: each part's own seconds, without those of parts inside it."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import distributed as dist
from torch.profiler import record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fpd_train.timing import SECONDS

COLLECTIVES = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "reduce", "reduce_scatter_tensor", "broadcast", "barrier"),
    *("all_gather_object", "broadcast_object_list", "all_to_all_single"),
)
PARTS = ("data", "student", "teacher", "decode", "lift", "drift", "backward", "step", "communication")


class Breakdown:
    """A stack of stopwatches. On a GPU the device's clock counts, read in the steps that are logged.

    Collectives that overlap with other work count for the time in which nothing else was begun.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._open: list[str] = []
        self._marks: list[tuple[str | None, Any]] = []  # from a mark to the next the time is that of its part

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """While it lasts the time is that of `name`, which a torch trace shows as well."""
        self._open.append(name)
        self._mark(name)
        try:
            with record_function(f"fpd/{name}"):
                yield
        finally:
            self._open.pop()
            self._mark(self._open[-1] if self._open else None)

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count the calls of an object's method as `name`."""
        work: Callable[..., Any] = getattr(owner, method)

        @wraps(work)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return work(*args, **kwargs)

        setattr(owner, method, timed)

    @contextmanager
    def watching_collectives(self) -> Iterator[None]:
        """While it lasts, what torch's collectives take is communication, DeepSpeed's too: it calls these."""
        before = {name: getattr(dist, name) for name in COLLECTIVES}
        for name in COLLECTIVES:
            self.watch(dist, name, "communication")
        try:
            yield
        finally:
            for name, work in before.items():
                setattr(dist, name, work)

    def seconds(self) -> dict[str, float]:
        """Each part's seconds since the last call, by `seconds/NAME`, in the order of a step."""
        found: dict[str, float] = {}
        if self._cuda:
            torch.cuda.synchronize()
        for (name, mark), (_, after) in zip(self._marks, self._marks[1:], strict=False):
            if name is not None:
                passed = mark.elapsed_time(after) / 1000 if self._cuda else after - mark
                found[name] = found.get(name, 0.0) + passed
        self._marks = []
        order = [*(name for name in PARTS if name in found), *(name for name in found if name not in PARTS)]
        return {f"{SECONDS}{name}": found[name] for name in order}

    def clear(self) -> None:
        """Forget what was measured so far."""
        self._marks = []

    def _mark(self, name: str | None) -> None:
        if not self._cuda:
            self._marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((name, event))


class CountedFlops(TorchDispatchMode):
    """While it lasts, `total` counts the floating-point operations of matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def peak_flops(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """FLOP/s of one large matrix product, the best of five: the peak that this machine shows, not its vendor's."""
    side = side or (8192 if device.type == "cuda" else 512)
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def peak_memory(device: torch.device) -> int:
    """The most bytes so far: allocated on a GPU, else resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
