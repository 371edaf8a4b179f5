"""From the outline of a step to memory, time and money."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fpd_train.config import TrainConfig
from fpd_train.plan.gpus import Gpu
from fpd_train.plan.outline import Outline
from fpd_train.plan.zero import BFLOAT16, FLOAT32, Network, kept, on_the_wire, passing, sent

RESERVE = 0.08  # of a card: the driver's context, libraries' work space, fragments


@dataclass(frozen=True)
class Assumptions:
    """What no config says.

    Attributes:
        efficiency: share of the peak that a step reaches.
        price: dollars per card and hour.
        per_node: cards of one machine.
        network: bytes/s that one card sends to another machine.
    """

    efficiency: float
    price: float
    per_node: int = 8
    network: float = 25e9


@dataclass(frozen=True)
class Estimate:
    """Bytes on one rank, seconds of one step, cost of all steps.

    Attributes:
        kept, passing: bytes by part, between steps and on top within one.
        sent: bytes handed to collectives in a step, by (what, operation).
        wire: bytes that one rank sends for them.
        seconds: of arithmetic by kind, and of communication, one after the other.
        change: what to change first where it does not fit, and bytes then; None where it fits.
    """

    kept: dict[str, int]
    passing: dict[str, int]
    sent: dict[tuple[str, str], int]
    wire: float
    seconds: dict[str, float]
    images_per_second: float
    hours: float
    dollars: float
    change: tuple[str, int] | None

    @property
    def memory(self) -> int:
        return sum(self.kept.values()) + sum(self.passing.values())


def estimate(config: TrainConfig, found: Outline, world: int, card: Gpu, assumed: Assumptions) -> Estimate:
    """What a run on `world` cards takes."""
    stage = config.engine.zero_stage
    stays, comes = memory(found, stage, world, is_half=config.engine.precision == "bfloat16")
    messages: Counter[tuple[str, str]] = Counter()
    for name, network in found.networks.items():
        passes, forwards = found.passes.get(name, 0), found.forwards.get(name, 0)
        if passes:
            messages.update(sent(network, stage, world, passes=passes, forwards=forwards))
    if found.gathered and world > 1:
        messages["features", "all-gather"] = found.gathered
    wire = sum(on_the_wire(operation, size, world) for (_, operation), size in messages.items())
    seconds = {kind: flops / (getattr(card, kind) * assumed.efficiency) for kind, flops in found.flops.items() if flops}
    seconds["communication"] = wire / (card.link if world <= assumed.per_node else min(card.link, assumed.network))
    step = sum(seconds.values())
    hours = step * config.steps / 3600
    images = config.micro_batch * config.engine.accumulation * world
    whole = sum(stays.values()) + sum(comes.values())
    room = card.memory * (1 - RESERVE)
    return Estimate(
        stays,
        comes,
        dict(messages),
        wire,
        seconds,
        images / step,
        hours,
        hours * world * assumed.price,
        None if whole <= room else _first_change(config, found, world, whole, room),
    )


def memory(found: Outline, stage: int, world: int, *, is_half: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes on one rank: what stays between steps, and what comes on top within one."""
    stays: Counter[str] = Counter()
    comes: Counter[str] = Counter()
    for network in found.networks.values():
        parts = kept(network, stage, world)
        stays.update(parts)
        for name, size in passing(network, stage, world).items():  # one network after the other
            comes[name] = max(comes[name], size - parts.get(name, 0))
    stays["frozen networks"] = found.frozen
    # Autocast keeps most of what the trained network's backward needs in bfloat16; the meta device counts float32.
    comes["activations"] = found.student_activations // (2 if is_half else 1) + found.activations
    comes["drift batch"] = found.gathered + found.pairs
    order = ("weights", "masters", "gradients", "optimizer", "EMA", "frozen networks", "gradient bucket")
    return {name: stays[name] for name in order if stays[name]}, {
        name: size for name, size in comes.items() if size > 0
    }


def _first_change(config: TrainConfig, found: Outline, world: int, whole: int, room: float) -> tuple[str, int]:
    """The first setting that makes the run fit, else the one that saves most; the kindest to the result come first."""
    changes = list(_changes(config, found, world))
    return next((one for one in changes if one[1] <= room), min(changes, key=lambda one: one[1], default=("", whole)))


def _changes(config: TrainConfig, found: Outline, world: int) -> Iterator[tuple[str, int]]:
    stage, is_half = config.engine.zero_stage, config.engine.precision == "bfloat16"

    def size(outline: Outline = found, at: int = stage, half: bool = is_half) -> int:
        return sum(sum(part.values()) for part in memory(outline, at, world, is_half=half))

    if stage < 2 and world > 1:
        yield "engine.zero_stage=2", size(at=2)
    if not is_half:
        halves = {name: replace(one, is_half=True) for name, one in found.networks.items()}
        yield "engine.precision=bfloat16", size(replace(found, networks=halves), max(stage, 1), True)
    elif getattr(config.method, "teacher_precision", None) == "float32" and found.transformer:
        less = found.transformer * (FLOAT32 - BFLOAT16) // FLOAT32
        yield "method.teacher_precision=bfloat16", size(replace(found, frozen=found.frozen - less))
    drafts = getattr(config.method, "drafts_per_condition", 1)
    batch, times = config.micro_batch, config.engine.accumulation
    while batch % 2 == 0 and (batch // 2) % drafts == 0:
        batch, times = batch // 2, times * 2
        part = config.micro_batch // batch
        fewer = replace(
            found,
            student_activations=found.student_activations // part,
            activations=found.activations // part,
        )
        yield f"micro_batch={batch} and engine.accumulation={times}", size(fewer)
    if getattr(config.method, "adapter", "none") is None:
        yield "method.adapter={}", size(replace(found, networks=adapted(found)))
    if config.ema.enabled:
        off = {name: replace(one, has_average=False) for name, one in found.networks.items()}
        yield "ema.enabled=false", size(replace(found, networks=off))
    if stage < 3 and world > 1:
        yield "engine.zero_stage=3", size(at=3)


def adapted(found: Outline) -> dict[str, Network]:
    """The networks with low-rank additions, whose own size is small beside all else, in place of trained weights."""
    return {
        name: replace(one, trained=(), frozen=(*one.trained, *one.frozen), shared=sum(one.trained) + sum(one.frozen))
        for name, one in found.networks.items()
    }
