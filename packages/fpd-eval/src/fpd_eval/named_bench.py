"""Rows of a comparison by a named protocol (`presets`): the numbers of `fpd-eval metrics`, several systems at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fpd_eval.distribution import Place, feasible, measure_images
from fpd_eval.evaluate import strip, system_images
from fpd_eval.image_sets import Plan
from fpd_eval.presets import MetricName, MetricProtocol
from fpd_eval.references import Reference, open_reference
from fpd_eval.results import Row
from fpd_eval.systems import System

SHOWN = 10


@dataclass(frozen=True)
class NamedBench:
    """Where systems are measured; `lacks` says which numbers the reference does not suffice for."""

    protocol: MetricProtocol
    num_classes: int
    reference: Reference
    metrics: list[MetricName]
    lacks: list[str]
    place: Place

    @property
    def conditions(self) -> tuple[str, ...]:
        """Of the first images, which the report shows."""
        return tuple(f"class {number % self.num_classes}" for number in range(min(SHOWN, self.protocol.num_images)))


def open_named_bench(
    protocol: MetricProtocol, references: Sequence[Path], place: Place, *, num_classes: int
) -> NamedBench:
    """The bench of `protocol` against `references`, by default its own.

    Raises:
        ValueError: no reference is named where one is needed, or it is absent or damaged.
    """
    paths = references or ([protocol.reference] if protocol.reference else [])
    against = open_reference(paths, protocol.batch_size)
    metrics, lacks = feasible(protocol, against)
    if not metrics:
        raise ValueError(lacks[0])
    return NamedBench(protocol, num_classes, against, metrics, lacks, place)


def measure_named(system: System, bench: NamedBench) -> tuple[Row, tuple[str, ...]]:
    """The row of one system, and what was warned of. No time is measured: that is `small`'s.

    Raises:
        ValueError: too few images, or features that do not fit the reference.
        CheckpointError: an extractor's weights are absent or damaged.
    """
    protocol = bench.protocol
    plan = Plan(
        num_images=protocol.num_images,
        num_classes=bench.num_classes,
        batch_size=protocol.batch_size,
        seed=protocol.seed,
        rounding=protocol.rounding,
    )
    images = system_images(system, plan)
    found = measure_images(images, bench.reference, protocol, bench.metrics, bench.place)
    assert found is not None  # a comparison is one process
    shown = len(bench.conditions)
    row = Row(
        name=system.name,
        role=system.role,
        steps=system.steps,
        network_evaluations=system.network_evaluations,
        settings=system.settings,
        ms_per_image=None,
        values=found.values,
        samples=strip(images.batch(0)[:shown], shown),
    )
    return row, found.warnings
