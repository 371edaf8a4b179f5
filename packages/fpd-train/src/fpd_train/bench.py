"""Where the time of a distillation step goes: each component alone, then all of them together."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fpd_core.conditioning import ClassCondition
from fpd_core.config import ConfigError
from fpd_core.drift import drift_loss
from fpd_core.lift import Lift
from fpd_core.masking import initial_tokens
from fpd_core.objective import fixed_point_loss
from fpd_core.refine import refine
from fpd_core.ste import sample_tokens, straight_through
from fpd_core.teachers import load_teacher
from fpd_train.config import TrainConfig
from fpd_train.methods.fpd import FpdConfig

WARMUP = 1


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of one component; `peak_gib` is GPU memory, None on a CPU."""

    component: str
    milliseconds: float
    peak_gib: float | None


def bench(config: TrainConfig, repeats: int) -> list[Timing]:
    """Time the parts of one micro-batch at the sizes of `config`, without DeepSpeed.

    Raises:
        ConfigError: the config does not describe a distillation.
    """
    if not isinstance(config.method, FpdConfig):
        raise ConfigError(f"bench times method fpd, the config names {config.method.name!r}")
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    components = _components(config, config.method, device)
    shown = track(components.items(), description="timing", console=Console(stderr=True), transient=True)
    return [_time(name, work, device, repeats) for name, work in shown]


def _components(config: TrainConfig, method: FpdConfig, device: torch.device) -> dict[str, Callable[[], object]]:
    teacher = load_teacher(method.teacher).to(device)
    lift = Lift(teacher, method.lift).to(device)
    student = load_teacher(method.teacher).to(device).network.requires_grad_(True)
    batch, objective = config.micro_batch, method.objective
    condition = ClassCondition(torch.arange(batch, device=device) % teacher.num_classes)
    z_init = initial_tokens(
        batch, teacher.seq_len, teacher.codebook_size, teacher.mask_id, objective.init_mask_ratio, None, device
    )
    with torch.no_grad():
        logits = teacher.logits(z_init, condition)
        draft = sample_tokens(logits)
        features = lift(teacher.codebook[draft], condition)

    def embeddings() -> torch.Tensor:
        return straight_through(logits.requires_grad_(True), draft, teacher.codebook)

    def drift() -> None:
        for block in features:
            drift_loss(block.detach().requires_grad_(True), block.roll(1, 0)).loss.backward()

    return {
        "student forward": lambda: teacher.logits(z_init, condition, network=student),
        "student forward + backward": lambda: teacher.logits(z_init, condition, network=student).sum().backward(),
        "teacher step (eq. 5)": lambda: refine(teacher, draft, condition, 0.6, guidance_scale=objective.guidance_scale),
        "decode": lambda: _no_grad(lambda: teacher.decode(teacher.codebook[draft], condition)),
        "lift, target": lambda: _no_grad(lambda: lift(teacher.codebook[draft], condition)),
        "lift, student + backward": lambda: (
            torch.stack([f.sum() for f in lift(embeddings(), condition)]).sum().backward()
        ),
        "drift + backward (eqs. 6-7)": drift,
        "whole step": lambda: fixed_point_loss(student, teacher, lift, condition, objective).loss.backward(),
    }


def _no_grad(work: Callable[[], object]) -> None:
    with torch.no_grad():
        work()


def _time(name: str, work: Callable[[], object], device: torch.device, repeats: int) -> Timing:
    cuda, seconds = device.type == "cuda", []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for index in range(WARMUP + repeats):
        began = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        if index >= WARMUP:
            seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return Timing(name, statistics.median(seconds) * 1000, peak)


def show(timings: list[Timing], config: TrainConfig, *, as_json: bool) -> None:
    """Print the timings as a table, or as JSON and nothing else."""
    if as_json:
        print(json.dumps([asdict(timing) for timing in timings], indent=2))
        return
    table = Table("component", "ms", "share of the step", "peak GiB", title=f"micro_batch {config.micro_batch}")
    whole = timings[-1].milliseconds
    for timing in timings:
        peak = "-" if timing.peak_gib is None else f"{timing.peak_gib:.2f}"
        table.add_row(timing.component, f"{timing.milliseconds:.1f}", f"{timing.milliseconds / whole:.0%}", peak)
    Console().print(table)
