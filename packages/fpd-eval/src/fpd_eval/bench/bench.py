"""The one way from images to numbers: image set -> features, piece by piece -> metrics, all cached by content."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from fpd_core.config import Config
from fpd_eval.bench.features import Outputs, features
from fpd_eval.bench.references import Reference, open_reference
from fpd_eval.bench.registry import METRICS, Metric, Side, Values
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
        wanted = sorted({METRICS[name].extractor_of(self.protocol) for name in self.metrics})
        return {name: load_extractor(name, self.place.device, weights.get(name)) for name in wanted}

    @cached_property
    def real(self) -> dict[str, Side]:
        """The reference by extractor; its features only where statistics do not suffice. Collective."""
        known, images = self.reference.statistics, self.reference.images
        wanted = {
            METRICS[name].extractor_of(self.protocol) for name in self.metrics if METRICS[name].needs_images_of(known)
        }
        seen: Outputs = {}
        if wanted and images is not None:
            seen = self.features(images, sorted(wanted))
        return {
            name: Side(seen.get(name, {}), known if name == self.protocol.features else {}) for name in self.extractors
        }

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
        seen_by = METRICS[name].extractor_of(protocol)
        key = _key(name, images, bench, bench.extractors[seen_by])
        found, said = _cached(key, METRICS[name], (real[seen_by], sides[seen_by]), bench)
        values |= found
        notes += said
    return MetricResult(
        images=images.title,
        num_images=images.count,
        system=dict(system or {}),
        reference=reference.title or None,
        num_reference=reference.images.count if reference.images else None,
        protocol=protocol,
        values=values,
        warnings=tuple(notes),
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


def _key(name: str, images: ImageSet[Any], bench: Bench, extractor: Extractor) -> str:
    reference = bench.reference
    return bench.place.cache.key(
        "metric",
        metric=name,
        images=images.identity,
        reference=[reference.identity, reference.images.identity if reference.images else None],
        protocol=bench.protocol.decisive(),
        extractor=extractor.fingerprint,
    )


def _cached(key: str, metric: Metric, sides: tuple[Side, Side], bench: Bench) -> tuple[Values, list[str]]:
    """Values and what was warned of while they were computed."""
    stored = bench.place.cache.get_json(key)
    if stored is None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values = metric.compute(*sides, bench.protocol)
        stored = {"values": values, "warnings": [str(one.message) for one in caught]}
        bench.place.cache.put_json(key, stored)
    return stored["values"], stored["warnings"]
