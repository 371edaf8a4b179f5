"""The one way from images to numbers: image set -> features, piece by piece -> metrics, all cached by content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from fpd_core.config import Config
from fpd_eval.bench.battery import by_encoder, halves, with_ratios
from fpd_eval.bench.features import Outputs, features
from fpd_eval.bench.references import Reference, open_reference
from fpd_eval.bench.registry import METRICS, Side, Values
from fpd_eval.bench.subsets import require_subsets
from fpd_eval.bench.values import measured
from fpd_eval.extractors import Extractor, load_extractor
from fpd_eval.images.image_set import ImageSet
from fpd_eval.protocols import MetricName, MetricProtocol
from fpd_eval.runtime.cache import Cache
from fpd_eval.runtime.machine import Machine, this_machine
from fpd_eval.runtime.progress import Track, silent
from fpd_eval.runtime.ranks import ALONE, Ranks

CPU = torch.device("cpu")


class MetricResult(Config):
    """Numbers with everything they depend on."""

    format_version: int = 1
    images: str
    num_images: int
    system: dict[str, Any] = Field(description="Name, steps and sampling options; empty for ready images.")
    encoders: tuple[str, ...] | None = Field(
        None, description="Networks that the system's training compared images with; None: unknown."
    )
    reference: str | None
    num_reference: int | None
    protocol: MetricProtocol
    values: Values
    warnings: tuple[str, ...]
    extractors: dict[str, str]
    machine: Machine


@dataclass(frozen=True)
class Place:
    """Where and how a measurement runs; nothing in here changes a number."""

    cache: Cache
    device: torch.device = CPU
    track: Track = silent
    ranks: Ranks = ALONE
    batch_size: int | None = None
    weights: Mapping[str, Path] | None = None


@dataclass(frozen=True)
class Bench:
    """A protocol with its reference, ready to measure `metrics` of any number of image sets."""

    protocol: MetricProtocol
    metrics: Sequence[MetricName]
    reference: Reference
    place: Place
    lacks: Sequence[str] = ()
    """What the reference does not suffice for."""

    @cached_property
    def extractors(self) -> dict[str, Extractor]:
        """By name. Raises CheckpointError: weights are absent or damaged."""
        weights = self.place.weights or {}
        return {name: load_extractor(name, self.place.device, weights.get(name)) for name in self.wanted}

    @property
    def wanted(self) -> list[str]:
        """Names of the extractors that the metrics read."""
        return sorted({one for name in self.metrics for one in METRICS[name].extractors_of(self.protocol)})

    @cached_property
    def seen(self) -> Outputs:
        """The real images by extractor, where statistics do not suffice; {} on other ranks. Collective."""
        known, images = self.reference.statistics, self.reference.images
        asked = [METRICS[name] for name in self.metrics if METRICS[name].needs_images_of(known)]
        wanted = {one for metric in asked for one in metric.extractors_of(self.protocol)}
        return self.features(images, sorted(wanted)) if wanted and images is not None else {}

    @cached_property
    def real(self) -> dict[str, Side]:
        """What images are compared with, by extractor: the reference, or a half of it for a battery. Collective."""
        seen, known, protocol = self.seen, self.reference.statistics, self.protocol
        if protocol.battery:
            return {name: halves(self, seen.get(name, {}), 0)[0] for name in self.extractors}
        return {name: Side(seen.get(name, {}), known if name == protocol.features else {}) for name in self.extractors}

    def features(self, images: ImageSet[Any], names: Sequence[str]) -> Outputs:
        """Outputs of the named extractors. Collective."""
        place, chosen = self.place, {name: self.extractors[name] for name in names}
        return features(images, chosen, place.cache, place.track, ranks=place.ranks, batch_size=place.batch_size)


def open_bench(
    protocol: MetricProtocol,
    place: Place,
    *,
    references: Sequence[Path] = (),
    only: Sequence[MetricName] = (),
) -> Bench:
    """The bench of `protocol` against `references`, by default its own.

    Raises:
        ValueError: a reference is absent or damaged, or does not suffice for any metric or for one in `only`.
    """
    paths = references or ([protocol.reference] if protocol.reference else [])
    labels = None if references else protocol.reference_labels
    limit = protocol.num_reference if labels else None
    against = open_reference(paths, protocol.batch_size, labels=labels, limit=limit)
    names, lacks = feasible(protocol, against)
    if lacks and (only or not names):
        raise ValueError(lacks[0])
    if protocol.battery and against.images is not None and against.images.count < 2 * protocol.num_images:
        raise ValueError(
            f"protocol {protocol.name!r} splits the real images in two halves of {protocol.num_images}, "
            f"{against.title} holds {against.images.count}; measure fewer with --num-images {against.images.count // 2}"
        )
    require_subsets(protocol, names, against)
    return Bench(protocol, names, against, place, lacks)


def feasible(protocol: MetricProtocol, reference: Reference) -> tuple[list[MetricName], list[str]]:
    """The protocol's metrics that `reference` suffices for, and one sentence for each that it does not."""
    names: list[MetricName] = []
    lacks = []
    for name in protocol.metrics:
        metric = METRICS[name]
        if reference.images is None and metric.needs_images_of(reference.statistics):
            what = "reference images" if metric.reference == "images" else "reference statistics or images"
            lacks.append(f"{name} needs {what}; name one with --reference")
        else:
            names.append(name)
    return names, lacks


def measure_images(
    images: ImageSet[Any], bench: Bench, *, system: Mapping[str, Any] | None = None
) -> MetricResult | None:
    """Every number of `bench.metrics` for one image set. Collective; the result is the main rank's, None on others.

    Raises:
        ValueError: another number of images than the protocol's, features that do not fit the reference.
        CheckpointError: an extractor's weights are absent or damaged.
    """
    protocol, reference = bench.protocol, bench.reference
    _require_fit(images, bench)
    fake = bench.features(images, list(bench.extractors))
    real = bench.real
    if not bench.place.ranks.is_main:
        return None
    sides = {name: Side(outputs, labels=images.labels) for name, outputs in fake.items()}
    values: Values = {}
    notes = _notes(bench)
    for name in bench.metrics:
        for seen_by in METRICS[name].extractors_of(protocol):
            found, said = measured(bench, name, seen_by, (real[seen_by], sides[seen_by]), images.identity)
            values |= by_encoder(found, seen_by) if protocol.battery else found
            notes += said
    if protocol.battery:
        values = with_ratios(values, bench)
    return MetricResult(
        images=images.title,
        num_images=images.count,
        system=dict(system or {}),
        reference=reference.title or None,
        num_reference=reference.images.count if reference.images else None,
        protocol=protocol,
        values=values,
        warnings=tuple(dict.fromkeys(notes)),
        extractors={name: extractor.fingerprint for name, extractor in bench.extractors.items()},
        machine=this_machine(bench.place.device),
    )


def _require_fit(images: ImageSet[Any], bench: Bench) -> None:
    protocol, real = bench.protocol, bench.reference.images
    beside = {"classes": images.labels is not None, "captions": images.has_captions, None: True}
    for name in bench.metrics:
        if not beside[METRICS[name].beside]:
            raise ValueError(f"{name} needs the {METRICS[name].beside} of the images, {images.title} has none")
    if images.count != protocol.num_images:
        raise ValueError(
            f"{images.title} holds {images.count} images, protocol {protocol.name!r} measures {protocol.num_images}; "
            f"accept another number with --num-images {images.count}"
        )
    uses_images = any(METRICS[name].reference == "images" for name in bench.metrics)
    if uses_images and real is not None and protocol.num_reference not in (None, real.count):
        raise ValueError(
            f"{bench.reference.title} holds {real.count} images, protocol {protocol.name!r} compares with "
            f"{protocol.num_reference}; accept another number with --num-reference {real.count}"
        )


def _notes(bench: Bench) -> list[str]:
    known, real = bench.reference.statistics, bench.reference.images
    distances = [METRICS[name] for name in bench.metrics if METRICS[name].reference == "statistics"]
    from_images = any(metric.needs_images_of(known) for metric in distances)
    if bench.protocol.statistics == "file" and from_images and real is not None:
        return [
            f"protocol {bench.protocol.name!r} takes its distance to a published mu/sigma file; this one is to "
            f"{real.count} reference images and cannot be compared with published values"
        ]
    return []
