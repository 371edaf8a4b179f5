"""Memory of one drift problem: as one batch, and as chunks of 32 samples in two passes.

    OMP_NUM_THREADS=1 python ci/measure_kernel_batch.py

The garments' teacher and lift, forward and backward. Peak memory is what a first step adds to a fresh process that has
loaded the networks: of the GPU where there is one, else resident.
"""

import resource
import subprocess
import sys
from copy import deepcopy
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fpd_core.kernel_batch import first_pass, second_pass
from fpd_core.lift import Lift, LiftConfig
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.teachers import load_teacher
from fpd_core.teachers.fashion import FashionConfig

CHUNK = 32


def added(batch: int, chunk: int, device: torch.device) -> float:
    """MiB that a first step adds to the loaded networks."""
    teacher = load_teacher(FashionConfig()).to(device)
    lift, config = Lift(teacher, LiftConfig()).to(device), ObjectiveConfig(weighting="cross")
    student = deepcopy(teacher.network).requires_grad_(True)
    conditions = [teacher.condition(torch.arange(chunk) % 10)] * (batch // chunk)
    drawn = [torch.Generator(device).manual_seed(seed) for seed in range(len(conditions))]
    loaded = _peak(device)
    if chunk == batch:
        fixed_point_loss(student, teacher, lift, conditions[0], config, generator=drawn[0]).loss.backward()
    else:
        chunks = first_pass(student, teacher, lift, conditions, config, generators=drawn)
        for part, generator in zip(chunks, drawn, strict=True):
            found = second_pass(student, teacher, lift, part, config, generator=generator)
            (found.loss / len(chunks)).backward()
    return (_peak(device) - loaded) / 2**20


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(child: Annotated[tuple[int, int] | None, typer.Option(hidden=True)] = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if child is not None:
        print(added(*child, device))
        return
    table = Table("samples", "one batch: MiB", f"chunks of {CHUNK}: MiB", title=_name(device))
    for batch in track((32, 64, 128, 256), console=Console(stderr=True), transient=True):
        cells = []
        for chunk in sorted({batch, CHUNK}, reverse=True):
            command = [sys.executable, __file__, "--child", str(batch), str(chunk)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            cells.append(f"{float(output):,.0f}")
        table.add_row(str(batch), *cells)
    Console().print(table)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"


if __name__ == "__main__":
    typer.run(main)
