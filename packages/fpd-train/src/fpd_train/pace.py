"""What a step costs: its breakdown in seconds, FLOP/s against the machine's, memory; and a torch trace on request."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fpd_train.breakdown import Breakdown, CountedFlops, peak_flops, peak_memory
from fpd_train.timing import SECONDS, WHOLE

PROFILED = (1, 2)  # steps after the first of a process, which is slower than all others
PROFILE = "profile"


class Pace:
    """Measures the steps of one rank.

    Args:
        counts: whether to count the operations of the first step; what torch.compile makes cannot be counted.
        trace: how the files of torch traces of the steps `PROFILED` begin; None writes none.
    """

    def __init__(
        self, breakdown: Breakdown, device: torch.device, dtype: torch.dtype, *, counts: bool, trace: Path | None
    ) -> None:
        self._breakdown, self._device, self._dtype = breakdown, device, dtype
        self._counts, self._trace = counts, trace
        self._flops, self._peak, self._steps, self._began = 0, 0.0, 0, 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around the work of one step."""
        self._breakdown.clear()
        self._began = time.perf_counter()
        counter = CountedFlops() if self._counts and self._steps == 0 else None
        with self._traced(), counter or nullcontext():
            yield
        self._flops = counter.total if counter else self._flops
        self._steps += 1

    def numbers(self) -> dict[str, float]:
        """Of the step that just ended. Waits for the device."""
        parts = self._breakdown.seconds()
        seconds = time.perf_counter() - self._began
        found = {**parts, f"{SECONDS}other": max(0.0, seconds - sum(parts.values())), WHOLE: seconds}
        if self._flops:
            self._peak = self._peak or peak_flops(self._device, self._dtype)
            found |= {"flops_per_second": self._flops / seconds, "utilization": self._flops / seconds / self._peak}
        return found | {"memory_gib": peak_memory(self._device) / 2**30}

    @contextmanager
    def _traced(self) -> Iterator[None]:
        if self._trace is None or self._steps not in PROFILED:
            yield
            return
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])]
        made: Any
        with profile(activities=activities, profile_memory=True) as made:
            yield
        self._trace.parent.mkdir(exist_ok=True)
        made.export_chrome_trace(str(self._trace.with_name(f"{self._trace.name}_{self._steps}.json.gz")))
