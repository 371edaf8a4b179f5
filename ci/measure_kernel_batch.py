"""Memory of one drift problem: as one batch, and as chunks of 32 samples in two passes, of one rank or of several.

    OMP_NUM_THREADS=1 python ci/measure_kernel_batch.py [--ranks 2] [--most 256]

The garments' teacher and lift, forward and backward. Peak memory is what a first step adds to a fresh process that has
loaded the networks: of the GPU where there is one, else resident. With several ranks (gloo) the samples are those of
all ranks together, and the memory is that of the rank that takes most.
"""

import os
import resource
import subprocess
import sys
import tempfile
from copy import deepcopy
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import distributed as dist

from fpd_core.kernel_batch import first_pass, second_pass
from fpd_core.lift import GRID_SIDE, Lift, LiftConfig
from fpd_core.objective import ObjectiveConfig, fixed_point_loss
from fpd_core.teachers import load_teacher
from fpd_core.teachers.fashion import FashionConfig

CHUNK = 32
MIB = 2**20


def added(samples: int, chunk: int, device: torch.device) -> float:
    """MiB that a first step with `samples` on this rank adds to the loaded networks."""
    teacher, gather = load_teacher(FashionConfig()).to(device), dist.is_initialized()
    lift, config = Lift(teacher, LiftConfig()).to(device), ObjectiveConfig(weighting="cross")
    student = deepcopy(teacher.network).requires_grad_(True)
    conditions = [teacher.condition(torch.arange(chunk) % 10)] * (samples // chunk)
    drawn = [torch.Generator(device).manual_seed(seed) for seed in range(len(conditions))]
    loaded = _peak(device)
    if chunk == samples and not gather:
        fixed_point_loss(student, teacher, lift, conditions[0], config, generator=drawn[0]).loss.backward()
    else:
        chunks = first_pass(student, teacher, lift, conditions, config, generators=drawn, gather=gather)
        for part, generator in zip(chunks, drawn, strict=True):
            found = second_pass(student, teacher, lift, part, config, generator=generator)
            (found.loss / len(chunks)).backward()
    return (_peak(device) - loaded) / MIB


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(samples: int, chunk: int, ranks: int) -> float:
    """MiB of the rank that takes most, in fresh processes."""
    with tempfile.TemporaryDirectory() as meeting:
        command = [sys.executable, __file__, "--child", str(samples // ranks), str(chunk), "--ranks", str(ranks)]
        places = [os.environ | {"RANK": str(rank), "MEETING": f"{meeting}/store"} for rank in range(ranks)]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=place) for place in places]
        outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a measurement failed")
    return max(map(float, outputs))


def gathered(samples: int) -> float:
    """MiB of what a rank holds of all samples: features of drafts and targets in float32, and of the largest map the
    float64 arrays over all pairs (all products [F, 2N, 2N], six of [F, N, 2N])."""
    teacher = load_teacher(FashionConfig())
    lift = Lift(teacher, LiftConfig())
    with torch.no_grad():
        maps = lift(teacher.codebook[torch.zeros(1, teacher.seq_len, dtype=torch.int64)], teacher.condition([0]))
    cells = max(GRID_SIDE[space.grid] ** 2 for space in LiftConfig().spaces)
    return (2 * samples * sum(one.numel() for one in maps) * 4 + cells * samples**2 * (4 + 6 * 2) * 8) / MIB


def main(
    ranks: Annotated[int, typer.Option(min=1, help="Processes that share a batch.")] = 1,
    most: Annotated[int, typer.Option(min=CHUNK, help="Samples of the largest batch.")] = 256,
    child: Annotated[tuple[int, int] | None, typer.Option(hidden=True)] = None,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if child is not None:
        if ranks > 1:
            where = f"file://{os.environ['MEETING']}"
            dist.init_process_group("gloo", init_method=where, rank=int(os.environ["RANK"]), world_size=ranks)
        print(added(*child, device))
        return
    wholes = [] if ranks > 1 else ["one batch: MiB"]
    table = Table(
        "samples", *wholes, f"chunks of {CHUNK}: MiB", "of all samples: MiB", title=f"{ranks} x {_name(device)}"
    )
    batches = [CHUNK * ranks * 2**power for power in range(12) if CHUNK * ranks * 2**power <= most]
    for batch in track(batches, console=Console(stderr=True), transient=True):
        chunks = [CHUNK] if ranks > 1 else sorted({batch, CHUNK}, reverse=True)
        cells = [f"{measured(batch, chunk, ranks):,.0f}" for chunk in chunks]
        table.add_row(str(batch), *cells, *[""] * (len(wholes) + 1 - len(cells)), f"{gathered(batch):,.0f}")
    Console().print(table)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"


if __name__ == "__main__":
    typer.run(main)
