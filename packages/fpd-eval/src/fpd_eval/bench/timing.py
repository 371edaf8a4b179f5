"""Milliseconds per image, apart from the measured images: small, warm, median."""

import statistics
import time

import torch

from fpd_eval.protocols import MetricProtocol
from fpd_eval.systems.system import System


def milliseconds_per_image(system: System, protocol: MetricProtocol, device: torch.device) -> float:
    """Median over `timing_repeats` calls of `timing_batch_size` images after one warm-up; decoding included."""
    count = protocol.timing_batch_size
    assert count is not None, "this protocol measures no time"
    condition = protocol.plan(len(protocol.class_names)).condition(0, count)
    times = []
    for repeat in range(protocol.timing_repeats + 1):
        _synchronize(device)
        start = time.perf_counter()
        system.images(condition, seed=repeat)
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:]) / count


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
