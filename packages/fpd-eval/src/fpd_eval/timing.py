"""Milliseconds per image, apart from the measured images: small, warm, median."""

import statistics
import time

import torch

from fpd_eval.protocol import EvaluationProtocol
from fpd_eval.systems import System


def milliseconds_per_image(system: System, protocol: EvaluationProtocol, device: torch.device) -> float:
    """Median over `timing_repeats` calls of `timing_batch_size` images after one warm-up; decoding included."""
    condition = protocol.plan.condition(0, protocol.timing_batch_size)
    times = []
    for repeat in range(protocol.timing_repeats + 1):
        _synchronize(device)
        start = time.perf_counter()
        system.images(condition, seed=repeat)
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:]) / protocol.timing_batch_size


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
