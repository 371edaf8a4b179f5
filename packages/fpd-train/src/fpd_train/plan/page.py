"""A plan as people read it, and as programs do."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from fpd_train.config import TrainConfig
from fpd_train.plan.estimate import RESERVE, Assumptions, Estimate, adapted, memory
from fpd_train.plan.gpus import Gpu
from fpd_train.plan.outline import Outline

LARGE_CODEBOOK = 8192  # codes from which `code_chunk` matters


def record(found: Outline, result: Estimate, assumed: Assumptions, seconds: float) -> dict[str, Any]:
    """For programs; bytes, seconds and dollars."""
    return {
        "memory_between_steps": result.kept,
        "memory_within_a_step": result.passing,
        "memory": result.memory,
        "fits": result.change is None,
        "change_first": None if result.change is None else {"set": result.change[0], "memory": result.change[1]},
        "sent_per_step": {f"{what}, {operation}": size for (what, operation), size in result.sent.items()},
        "wire_per_step": result.wire,
        "flops_per_step": found.flops,
        "seconds_per_step": result.seconds,
        "images_per_second": result.images_per_second,
        "hours": result.hours,
        "dollars": result.dollars,
        "assumed": {"efficiency": assumed.efficiency, "price": assumed.price, "network": assumed.network},
        "planned_in_seconds": seconds,
    }


def cost_line(config: TrainConfig, name: str, world: int, result: Estimate) -> str:
    """One sentence: what the documentation of a recipe says."""
    return (
        f"{config.steps:,} steps on {world} x {name}: {_gb(result.memory)} per card, "
        f"{sum(result.seconds.values()):.3g} s a step, {result.images_per_second:,.0f} images/s, "
        f"{result.hours:,.3g} hours, ${result.dollars:,.2f}"
    )


def show(
    config: TrainConfig, name: str, card: Gpu, world: int, found: Outline, result: Estimate, assumed: Assumptions
) -> None:
    """Print the plan."""
    console = Console(width=100, highlight=False)
    console.print(cost_line(config, name, world, result), soft_wrap=True)
    table = Table("GB on one card", "between steps", "within a step", box=None, pad_edge=False)
    for part in dict.fromkeys([*result.kept, *result.passing]):
        table.add_row(part, *(_gb(side[part]) if part in side else "" for side in (result.kept, result.passing)))
    table.add_row("together", _gb(sum(result.kept.values())), _gb(sum(result.passing.values())))
    console.print(table)
    for line in _memory_lines(config, name, card, world, found, result):
        console.print(line, soft_wrap=True)
    for (what, operation), size in result.sent.items():
        console.print(f"sent per step: {what}, {operation} of {_gb(size)}")
    console.print(f"on the wire: {_gb(result.wire)} per card and step")
    tera = ", ".join(f"{kind} {count / 1e12:.3g}" for kind, count in found.flops.items() if count)
    console.print(f"TFLOP per card and step: {tera}")
    times = ", ".join(f"{kind} {value:.3g}" for kind, value in result.seconds.items())
    console.print(f"seconds per step: {times}")
    console.print(
        f"assumed: {assumed.efficiency:.0%} of the data sheet's peak (--efficiency), ${assumed.price:g} per card and "
        f"hour (--price), {assumed.per_node} cards a machine, {assumed.network / 1e9:g} GB/s between machines; "
        "communication does not overlap with arithmetic; data, sample grids and checkpoints cost nothing",
        soft_wrap=True,
    )


def _memory_lines(
    config: TrainConfig, name: str, card: Gpu, world: int, found: Outline, result: Estimate
) -> Iterator[str]:
    room = card.memory * (1 - RESERVE)
    if result.change is None:
        yield f"fits: {_gb(result.memory)} of {_gb(room)} ({name} less {RESERVE:.0%} for driver and libraries)"
    else:
        setting, then = result.change
        verdict = "fits" if then <= room else "is still too much"
        yield f"does not fit: {_gb(result.memory)} of {_gb(room)}. Change first: {setting}; {_gb(then)} {verdict}"
    is_half = config.engine.precision == "bfloat16"
    for stage in range(1 if is_half else 0, 4):
        stays, comes = memory(found, stage, world, is_half=is_half)
        mark = " (this run)" if stage == config.engine.zero_stage else ""
        yield f"ZeRO stage {stage}: {_gb(sum(stays.values()))} between steps, {_gb(sum(comes.values()))} on top{mark}"
    if getattr(config.method, "adapter", "none") is None:
        parts = replace(found, networks=adapted(found))
        stays, _ = memory(parts, config.engine.zero_stage, world, is_half=is_half)
        yield f"with adapters (method.adapter): {_gb(sum(stays.values()))} between steps, and their own"
    if found.codes >= LARGE_CODEBOOK:
        yield (
            f"{found.codes} codes: the scores of a micro-batch are {_gb(found.logits)}; objective.code_chunk keeps "
            "what is made of them smaller"
        )


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
