"""Memory of large students and large codebooks, each case in a fresh process.

    OMP_NUM_THREADS=1 python ci/measure_large.py

First table: one training step of a MaskGen-L student at batch 1 (weights by formula), AdamW and EMA included, float32,
without DeepSpeed: whole, with low-rank adapters, with its codes in chunks, with both. A case that takes more than
20 GiB, or all but 1.5 of what the machine has left, is stopped: the table says where. Second table: what tokens,
entropy, code vectors and their backward pass add to logits [1, 256, K]. Peaks are resident memory.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Annotated, Any

import psutil
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fpd_core.conditioning import PromptCondition
from fpd_core.ste import sample_tokens, straight_through, token_entropy
from fpd_train.batch import Batch
from fpd_train.config import load_config
from fpd_train.ema import Ema
from fpd_train.methods.fpd import FpdConfig, FpdMethod
from fpd_train.methods.gan import STUDENT
from fpd_train.methods.interface import Parts

LIMIT_GIB, SPARE_GIB = 20.0, 1.5  # a case stops where it takes more, or leaves the machine less
SYNTHETIC = ["method.teacher.weights=synthetic", "method.lift.backbone.weights=synthetic"]
PLAIN = ["device=cpu", "engine.precision=float32", "method.lift.backbone.dtype=float32", "micro_batch=1"]
ADAPTER, CHUNKS = "method.adapter.rank=16", "method.objective.code_chunk=1024"
STEPS: dict[str, list[str]] = {
    "whole": [],
    "adapters of rank 16": [ADAPTER],
    "chunks of 1024 codes": [CHUNKS],
    "adapters and chunks": [ADAPTER, CHUNKS],
}
LENGTH, CHANNELS = 256, 8
CODEBOOKS, CHUNK = (8192, 16384, 65536, 131072), 4096


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def one_step(overrides: list[str]) -> dict[str, float]:
    """Loaded and peak GiB, trained parameters and seconds of a first step."""
    config = load_config("configs/maskgen.json", SYNTHETIC + PLAIN + overrides)  # type: ignore[arg-type]
    assert isinstance(config.method, FpdConfig)
    method = FpdMethod(config.method, Parts(torch.device("cpu"), world=1, seed=0, steps=1))
    student = method.networks[STUDENT]
    ema = Ema(student, config.ema, saves_frozen=method.settings[STUDENT].saves_frozen)
    trained = {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-5)
    loaded, began = psutil.Process().memory_info().rss / 2**30, time.perf_counter()
    batch = Batch(PromptCondition(("a red apple",)))
    loss, _ = method.loss(STUDENT, batch, {STUDENT: student}, torch.Generator().manual_seed(0), 0)
    loss.backward()
    optimizer.step()
    ema.update(0, ((name, parameter.detach()) for name, parameter in trained.items()), dict(student.named_buffers()))
    seconds = time.perf_counter() - began
    saved = sum(value.numel() for value in ema.state().values())
    numbers = {"trained": sum(p.numel() for p in trained.values()), "saved": saved}
    return {"loaded": loaded, "peak": peak_gib(), "seconds": seconds, **numbers}


def codes(count: int, chunk: int) -> dict[str, float]:
    """MiB that the losses' token part adds, forward and backward."""
    logits = torch.randn(1, LENGTH, count, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    codebook = torch.randn(count, CHANNELS)
    before, began = peak_gib(), time.perf_counter()
    tokens = sample_tokens(logits, chunk=chunk)
    token_entropy(logits.detach(), chunk=chunk)
    straight_through(logits, tokens, codebook, chunk=chunk).square().sum().backward()
    return {"added": (peak_gib() - before) * 1024, "seconds": time.perf_counter() - began}


def in_child(*case: Any) -> dict[str, float]:
    """The numbers of a case, or how many GiB it had when it was `stopped`."""
    command = [sys.executable, __file__, "--child", json.dumps(case)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        memory = psutil.Process(child.pid).memory_info
        while child.poll() is None:
            taken, left = memory().rss / 2**30, psutil.virtual_memory().available / 2**30
            if taken > LIMIT_GIB or left < SPARE_GIB:
                child.kill()
                return {"stopped": taken}
            time.sleep(0.2)
        assert child.stdout is not None
        numbers: dict[str, float] = json.loads(child.stdout.read().splitlines()[-1])
        return numbers


def main(child: Annotated[str | None, typer.Option(hidden=True)] = None) -> None:
    if child is not None:
        what, *arguments = json.loads(child)
        print(json.dumps({"step": one_step, "codes": codes}[what](*arguments)))
        return
    console, progress = Console(), Console(stderr=True)
    table = Table("MaskGen-L, batch 1", "trained", "EMA saved", "loaded: GiB", "peak: GiB", "seconds")
    for name, overrides in track(STEPS.items(), console=progress, transient=True):
        found = in_child("step", overrides)
        if "stopped" in found:
            cells = ["-", "-", "-", f"stopped at {found['stopped']:.1f}", "-"]
        else:
            sizes = [f"{found['trained'] / 1e6:,.1f} M", f"{found['saved'] / 1e6:,.1f} M", f"{found['loaded']:.1f}"]
            cells = [*sizes, f"{found['peak']:.1f}", f"{found['seconds']:.0f}"]
        table.add_row(name, *cells)
    console.print(table)
    table = Table("codes", "logits: MiB", "whole: MiB", f"chunks of {CHUNK}: MiB", "seconds", "in chunks")
    for count in track(CODEBOOKS, console=progress, transient=True):
        whole, parts = (in_child("codes", count, chunk) for chunk in (count, CHUNK))
        added = [f"{case['added']:,.0f}" for case in (whole, parts)]
        table.add_row(
            f"{count:,}", f"{count * LENGTH / 2**18:,.0f}", *added, *(f"{c['seconds']:.1f}" for c in (whole, parts))
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
