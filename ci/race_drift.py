"""The drift loss against the PyPI package `drift-models`: time, peak memory and accuracy, forward and backward.

    pip install --no-deps --target rival drift-models==0.1.1
    PYTHONPATH=rival OMP_NUM_THREADS=1 python ci/race_drift.py

Both compute the Drifting code's form (`cross`, floor 1e-6 in the root) for four blocks of 16 cells. Times are taken in
turns within one process, so that what else the machine does meets both alike. Peak memory is that of a fresh process.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from drifting_models.drift_field import DriftFieldConfig
from drifting_models.drift_loss import DriftingLossConfig, FeatureDriftingConfig, feature_space_drifting_loss
from torch import Tensor

from fpd_core.drift import drift_loss

BANDWIDTHS = (0.02, 0.05, 0.2)
BLOCKS, CELLS = 4, 16
SHAPES = [(batch, channels) for batch in (32, 64) for channels in (768, 1280)]
Blocks = list[Tensor]


def features(batch: int, channels: int) -> tuple[Blocks, Blocks]:
    """Students and targets [B, F, D] of each block; a target is an edit of its student."""
    generator = torch.Generator().manual_seed(0)
    students = [torch.randn(batch, CELLS, channels, generator=generator) for _ in range(BLOCKS)]
    targets = [x + 0.4 * torch.randn(x.shape, generator=generator) for x in students]
    return [x.requires_grad_() for x in students], targets


def fpd(students: Blocks, targets: Blocks) -> Tensor:
    pairs = zip(students, targets, strict=True)
    losses = [drift_loss(x, y, bandwidths=BANDWIDTHS, weighting="cross").loss for x, y in pairs]
    return torch.stack(losses).sum()


def rival(aggregation: str) -> Callable[[Blocks, Blocks], Tensor]:
    base = DriftingLossConfig(DriftFieldConfig(eps=1e-6))
    config = FeatureDriftingConfig(temperatures=BANDWIDTHS, temperature_aggregation=aggregation)

    def loss(students: Blocks, targets: Blocks) -> Tensor:
        named = [{str(i): x for i, x in enumerate(blocks)} for blocks in (students, targets)]
        found, _ = feature_space_drifting_loss(
            generated_feature_vectors=named[0],
            positive_feature_vectors=named[1],
            unconditional_feature_vectors=None,
            base_loss_config=base,
            feature_config=config,
        )
        return found / CELLS  # it sums over cells

    return loss


RUNNERS = {
    "fpd": fpd,
    "drift-models, one loss per bandwidth": rival("per_temperature_mse"),
    "drift-models, one loss": rival("sum_drifts_then_mse"),
}


def reference(x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the loss of one block, in float64 from differences of coordinates, cell by cell."""
    x, y = x.detach().double(), y.double()
    cells, channels = x.shape[1:]
    distances = []
    for f in range(cells):
        seen = torch.cat([x[:, f], y[:, f]])
        distances.append(torch.stack([(seen - point).square().sum(1) for point in x[:, f]]).clamp_min(1e-8).sqrt())
    scale = torch.stack(distances).mean()
    unit, force = scale / channels**0.5, torch.zeros_like(x)
    for h in BANDWIDTHS:
        drift = torch.stack([cell_drift(x[:, f], y[:, f], distances[f] / scale, h) for f in range(cells)], 1) / unit
        force += drift / drift.square().mean().sqrt()
    return -2 * force / (x.numel() * unit)


def cell_drift(x: Tensor, y: Tensor, distance: Tensor, bandwidth: float) -> Tensor:
    logits = -(distance + 100 * torch.eye(*distance.shape)) / bandwidth
    affinity = (logits.softmax(0) * logits.softmax(1)).clamp_min(1e-6).sqrt()
    negative, positive = affinity[:, : len(x)], affinity[:, len(x) :]
    return positive @ y * negative.sum(1, keepdim=True) - negative @ x * positive.sum(1, keepdim=True)


def gradients(name: str, students: Blocks, targets: Blocks) -> Blocks:
    for x in students:
        x.grad = None
    RUNNERS[name](students, targets).backward()
    return [x.grad for x in students if x.grad is not None]


def errors(students: Blocks, targets: Blocks) -> dict[str, float]:
    """Largest error of a gradient, relative to the largest gradient."""
    expected = [reference(x, y) for x, y in zip(students, targets, strict=True)]
    return {
        name: max(
            float((found - right).abs().max() / right.abs().max())
            for found, right in zip(gradients(name, students, targets), expected, strict=True)
        )
        for name in RUNNERS
    }


def milliseconds(students: Blocks, targets: Blocks, rounds: int) -> dict[str, float]:
    """Median over rounds; in each, all run once."""
    taken: dict[str, list[float]] = {name: [] for name in RUNNERS}
    for _ in range(rounds + 1):
        for name, times in taken.items():
            start = time.perf_counter()
            gradients(name, students, targets)
            times.append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def peak_mib(name: str, batch: int, channels: int) -> float:
    """What a fresh process needs beyond the features."""
    command = [sys.executable, __file__, "--one", name, "--batch", str(batch), "--channels", str(channels)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_peak(name: str, batch: int, channels: int) -> None:
    students, targets = features(batch, channels)
    gradients(name, *features(2, 8))
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before = kibibytes("VmRSS")
    gradients(name, students, targets)
    print((kibibytes("VmHWM") - before) / 2**10)


def kibibytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main(
    rounds: Annotated[int, typer.Option(help="Timed rounds per size.")] = 7,
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
    batch: Annotated[int, typer.Option(hidden=True)] = 32,
    channels: Annotated[int, typer.Option(hidden=True)] = 768,
) -> None:
    torch.set_num_threads(1)
    if one is not None:
        measure_peak(one, batch, channels)
        return
    print(f"{BLOCKS} blocks x {CELLS} cells, float32, one thread, torch {torch.__version__}\n")
    print("| B | D | implementation | ms | ratio of fpd | peak MiB | gradient's error |\n|---|---|---|---|---|---|---|")
    for batch, channels in SHAPES:
        blocks = features(batch, channels)
        wrong, times = errors(*blocks), milliseconds(*blocks, rounds)
        for name, spent in times.items():
            peak = peak_mib(name, batch, channels)
            share = times["fpd"] / spent
            row = f"| {batch} | {channels} | {name} | {spent:.0f} | {share:.2f} | {peak:.0f} | {wrong[name]:.1e} |"
            print(row, flush=True)


if __name__ == "__main__":
    typer.run(main)
