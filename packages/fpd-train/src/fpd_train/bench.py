"""Where the time and the memory of a distillation step go: each component alone, then all of them together."""

import gc
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from fpd_core.conditioning import Condition
from fpd_core.config import ConfigError
from fpd_core.drift import drift_loss
from fpd_core.lift import Lift
from fpd_core.masking import initial_tokens
from fpd_core.objective import fixed_point_loss
from fpd_core.refine import refine
from fpd_core.ste import sample_tokens, straight_through
from fpd_core.teachers import load_teacher
from fpd_core.teachers.text_conditional import CaptionCache, TextConditionalTeacher
from fpd_core.weights import require
from fpd_train.config import TrainConfig
from fpd_train.methods.fpd import FpdConfig
from fpd_train.methods.student import trainable_copy
from fpd_train.preflight import check_first

WHOLE_STEP = "whole step: forward, loss, backward"
RATIO = 0.6  # re-masked share of the timed refinement, about the mean of the arccos law


@dataclass(frozen=True)
class Timing:
    """One component: median milliseconds, and the highest GiB in use while it ran (GPU memory on a GPU, else the
    process's resident memory). `in_sum` marks the components that make up a step without overlap."""

    component: str
    milliseconds: float
    peak_gib: float
    in_sum: bool


def bench(config: TrainConfig, repeats: int) -> list[Timing]:
    """Time the parts of one micro-batch at the sizes of `config`, without DeepSpeed and without the optimizer.

    Raises:
        ConfigError: the config does not describe a distillation.
        CheckpointError: weights are missing.
    """
    if not isinstance(config.method, FpdConfig):
        raise ConfigError(f"bench times method fpd, the config names {config.method.name!r}")
    check_first(config)
    require(config.method.required_files())
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    components = _components(config, config.method, device)
    shown = track(components.items(), description="timing", console=Console(stderr=True), transient=True)
    return [_time(name, work, device, repeats, in_sum) for name, (work, in_sum) in shown]


def _components(
    config: TrainConfig, method: FpdConfig, device: torch.device
) -> dict[str, tuple[Callable[[], object], bool]]:
    """Name -> (work, whether it is one of the parts that add up to a step)."""
    teacher = load_teacher(method.teacher).to(device)
    teacher.autocast = config.engine.precision == "bfloat16"
    lift = Lift(teacher, method.lift).to(device)
    student = trainable_copy(teacher.network, method.frozen, method.adapter)
    batch, objective = config.micro_batch, method.objective
    classes = teacher.num_classes
    numbers = torch.arange(batch)
    prompts = teacher.example_prompts
    wanted: Any = [prompts[i % len(prompts)] for i in numbers] if classes is None else numbers % classes
    drafts = method.drafts_per_condition
    asked = wanted[: batch // drafts]
    condition = teacher.condition(wanted)
    z_init = initial_tokens(
        batch, teacher.seq_len, teacher.codebook_size, teacher.mask_id, objective.init_mask_ratio, None, device
    )
    with torch.no_grad():
        logits = teacher.logits(z_init, condition)
        draft = sample_tokens(logits)
        code_vectors = teacher.codebook[draft]
        images = teacher.decode(code_vectors, condition)
        features = lift(code_vectors, condition)
    guidance, temperature = teacher.refinement(
        torch.full((batch,), RATIO, device=device), objective.guidance_scale, objective.temperature
    )

    def given() -> Condition:
        return teacher.condition(asked).repeat_interleave(drafts)

    def student_pass(backward: bool) -> None:
        scores = teacher.logits(z_init, condition, network=student)
        if backward:
            scores.sum().backward()

    def through(work: Callable[[Tensor], Tensor | list[Tensor]], start: Tensor) -> None:
        """Forward and backward to the input, as on the student's path."""
        result = work(start.detach().requires_grad_(True))
        parts = result if isinstance(result, list) else [result]
        torch.stack([part.float().sum() for part in parts]).sum().backward()

    def drift() -> None:
        for block in features:
            drift_loss(block.detach().requires_grad_(True), block.roll(1, 0)).loss.backward()

    def decode(vectors: Tensor) -> Tensor:
        return teacher.decode(vectors, condition)

    captions: dict[str, tuple[Callable[[], object], bool]] = {}
    if isinstance(teacher, TextConditionalTeacher):
        cache, read = CaptionCache(batch), teacher.encode
        captions = {
            "captions, text tower": (lambda: read(asked), True),
            "captions, kept (caption_cache)": (lambda: cache(asked, device, read), False),
        }
    return {
        **captions,
        "student forward": (lambda: _no_grad(lambda: student_pass(False)), False),
        "student forward and backward": (lambda: student_pass(True), True),
        "teacher step (eq. 5)": (
            lambda: refine(teacher, draft, condition, RATIO, guidance_scale=guidance, temperature=temperature),
            True,
        ),
        "decode, target": (lambda: _no_grad(lambda: decode(code_vectors)), True),
        "decode, student, with backward": (lambda: through(decode, code_vectors), True),
        "backbone, target": (lambda: _no_grad(lambda: lift.features(images)), True),
        "backbone, student, with backward": (lambda: through(lift.features, images), True),
        "straight-through (eq. 8), with backward": (
            lambda: through(
                lambda scores: straight_through(scores, draft, teacher.codebook, chunk=objective.code_chunk), logits
            ),
            True,
        ),
        "drift (eqs. 6-7), with backward": (drift, True),
        WHOLE_STEP: (
            lambda: fixed_point_loss(student, teacher, lift, given(), objective).loss.backward(),
            False,
        ),
    }


def _no_grad(work: Callable[[], object]) -> None:
    with torch.no_grad():
        work()


def _time(name: str, work: Callable[[], object], device: torch.device, repeats: int, in_sum: bool) -> Timing:
    work()  # warm-up
    gc.collect()
    seconds = []
    with _peak_memory(device) as peak:
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    return Timing(name, statistics.median(seconds) * 1000, peak[0] / 2**30, in_sum)


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[int]]:
    """A list whose only entry is, at exit, the highest number of bytes in use meanwhile."""
    peak = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated()
        return
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], _resident_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    peak[0] = _resident_bytes()
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def show(timings: list[Timing], config: TrainConfig, *, as_json: bool) -> None:
    """Print the timings as a table, or as JSON and nothing else."""
    if as_json:
        print(json.dumps([asdict(timing) for timing in timings], indent=2))
        return
    title = f"micro_batch {config.micro_batch}, {config.engine.precision}"
    table = Table("component", "ms", "share of the step", "peak GiB", title=title)
    whole = timings[-1].milliseconds
    for timing in timings:
        share = f"{timing.milliseconds / whole:.0%}" if timing.in_sum else "-"
        table.add_row(timing.component, f"{timing.milliseconds:.1f}", share, f"{timing.peak_gib:.2f}")
    console = Console()
    console.print(table)
    total = sum(timing.milliseconds for timing in timings if timing.in_sum)
    console.print(f"whole step / sum of the bare components: {whole / total:.3f}")
