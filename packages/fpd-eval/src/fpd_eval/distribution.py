"""Distribution metrics of one image set under a protocol: features once, then numbers, all cached by content."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fpd_core.config import Config
from fpd_eval.cache import Cache
from fpd_eval.extractors import Extractor, load_extractor
from fpd_eval.features import Outputs, features
from fpd_eval.image_sets import ImageSet
from fpd_eval.machine import Machine, this_machine
from fpd_eval.metrics import inception_score, kernel_distance, manifold_scores, precision_recall
from fpd_eval.metrics.frechet import Gaussian, frechet_between, gaussian
from fpd_eval.presets import MetricName, MetricProtocol
from fpd_eval.progress import Track
from fpd_eval.ranks import Ranks
from fpd_eval.references import Reference

Values = dict[str, float]


@dataclass(frozen=True)
class Side:
    """One of the two compared sets: `features` of images and `statistics` from a file, by extractor output."""

    features: Mapping[str, Tensor]
    statistics: Mapping[str, Gaussian]

    def gaussian(self, output: str, name: str) -> Gaussian:
        return self.statistics[output] if output in self.statistics else gaussian(self.features[output], name)


@dataclass(frozen=True)
class Metric:
    """What a metric reads (`output` of the protocol's `role` extractor), what it needs of the reference, how it counts.

    A metric that "statistics" suffices for takes images where there are none.
    """

    role: Literal["features", "scores"]
    output: str
    reference: Literal["statistics", "images", "nothing"]
    compute: Callable[[Side, Side, MetricProtocol], Values]


def _frechet(name: str, output: str = "features") -> Metric:
    def compute(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
        return {name: frechet_between(real.gaussian(output, "reference"), fake.gaussian(output, "generated"))}

    return Metric("features", output, "statistics", compute)


def _inception_score(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    mean, std = inception_score(
        fake.features["logits"],
        protocol.inception_splits,
        split_size=protocol.inception_split_size,
        shuffle=protocol.inception_shuffle,
    )
    return {"inception_score": mean, "inception_score_std": std}


def _manifold(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    pair = real.features["features"], fake.features["features"]
    k, density_k, inclusive = protocol.precision_recall_k, protocol.density_coverage_k, protocol.inclusive
    if density_k is None:
        return dict(zip(("precision", "recall"), precision_recall(*pair, k, inclusive=inclusive), strict=True))
    return asdict(manifold_scores(*pair, precision_recall_k=k, density_coverage_k=density_k, inclusive=inclusive))


def _kernel(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    pair = real.features["features"], fake.features["features"]
    mean, std = kernel_distance(*pair, subsets=protocol.kid_subsets, subset_size=protocol.kid_subset_size)
    return {"kid": mean, "kid_std": std}


METRICS: dict[MetricName, Metric] = {
    "fid": _frechet("fid"),
    "sfid": _frechet("sfid", "spatial"),
    "fdd": _frechet("fdd"),
    "fd_classifier": _frechet("fd_classifier"),
    "is": Metric("scores", "logits", "nothing", _inception_score),
    "prc": Metric("features", "features", "images", _manifold),
    "kid": Metric("features", "features", "images", _kernel),
}


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
    device: torch.device
    track: Track
    ranks: Ranks
    batch_size: int | None = None
    weights: Mapping[str, Path] | None = None


def feasible(protocol: MetricProtocol, reference: Reference) -> tuple[list[MetricName], list[str]]:
    """The protocol's metrics that `reference` suffices for, and one sentence for each that it does not."""
    names: list[MetricName] = []
    lacks = []
    for name in protocol.metrics:
        problem = _lack(METRICS[name], reference)
        if problem is None:
            names.append(name)
        else:
            lacks.append(f"{name} needs {problem}; name one with --reference")
    return names, lacks


def _lack(metric: Metric, reference: Reference) -> str | None:
    if metric.reference == "nothing" or reference.images is not None:
        return None
    if metric.reference == "images":
        return "reference images"
    return None if metric.output in reference.statistics else "reference statistics or images"


def measure_images(
    images: ImageSet,
    reference: Reference,
    protocol: MetricProtocol,
    metrics: list[MetricName],
    place: Place,
    *,
    system: Mapping[str, Any] | None = None,
) -> MetricResult | None:
    """Every number in `metrics` for one image set. Collective; the result is the main rank's, None on others.

    Raises:
        ValueError: another number of images than the protocol's, features that do not fit the reference.
        CheckpointError: an extractor's weights are absent or damaged.
    """
    _require_counts(images, reference, protocol, metrics)
    roles = {name: METRICS[name].role for name in metrics}
    names = {"features": protocol.features, "scores": protocol.scores}
    wanted = sorted({str(names[role]) for role in roles.values()})
    given = place.weights or {}
    extractors = {name: load_extractor(name, place.device, given.get(name)) for name in wanted}
    fake = _features(images, extractors, place)
    real = _reference_features(reference, metrics, {protocol.features: extractors.get(protocol.features)}, place)
    if not place.ranks.is_main:
        return None
    values: Values = {}
    notes = _notes(reference, protocol, metrics)
    for name in metrics:
        extractor = str(names[roles[name]])
        sides = Side(real.get(extractor, {}), reference.statistics), Side(fake[extractor], {})
        key = _key(name, images, reference, protocol, extractors[extractor], place.cache)
        found, said = _cached(key, METRICS[name], sides, protocol, place.cache)
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
        extractors={name: extractor.fingerprint for name, extractor in extractors.items()},
        machine=this_machine(place.device),
    )


def _features(images: ImageSet, extractors: Mapping[str, Extractor], place: Place) -> Outputs:
    return features(images, extractors, place.cache, place.track, ranks=place.ranks, batch_size=place.batch_size)


def _reference_features(
    reference: Reference, metrics: list[MetricName], extractors: Mapping[str, Extractor | None], place: Place
) -> Outputs:
    """Only where some metric cannot do with statistics."""
    needed = any(
        METRICS[name].reference == "images"
        or (METRICS[name].reference == "statistics" and METRICS[name].output not in reference.statistics)
        for name in metrics
    )
    loaded = {name: extractor for name, extractor in extractors.items() if extractor is not None}
    return _features(reference.images, loaded, place) if needed and reference.images is not None else {}


def _require_counts(
    images: ImageSet, reference: Reference, protocol: MetricProtocol, metrics: list[MetricName]
) -> None:
    if images.count != protocol.num_images:
        raise ValueError(
            f"{images.title} holds {images.count} images, protocol {protocol.name!r} measures {protocol.num_images}; "
            f"accept another number with --num-images {images.count}"
        )
    uses_images = any(METRICS[name].reference == "images" for name in metrics)
    if uses_images and reference.images is not None and protocol.num_reference not in (None, reference.images.count):
        raise ValueError(
            f"{reference.title} holds {reference.images.count} images, protocol {protocol.name!r} compares with "
            f"{protocol.num_reference}; accept another number with --num-reference {reference.images.count}"
        )


def _notes(reference: Reference, protocol: MetricProtocol, metrics: list[MetricName]) -> list[str]:
    from_images = any(
        METRICS[name].reference == "statistics" and METRICS[name].output not in reference.statistics for name in metrics
    )
    if protocol.statistics == "file" and from_images and reference.images is not None:
        return [
            f"protocol {protocol.name!r} takes its distance to a published mu/sigma file; this one is to "
            f"{reference.images.count} reference images and cannot be compared with published values"
        ]
    return []


def _key(
    name: str,
    images: ImageSet,
    reference: Reference,
    protocol: MetricProtocol,
    extractor: Extractor,
    cache: Cache,
) -> str:
    irrelevant = {"name", "source", "metrics", "reference"}
    return cache.key(
        "metric",
        metric=name,
        images=images.identity,
        reference=[reference.identity, reference.images.identity if reference.images else None],
        protocol=protocol.model_dump(mode="json", exclude=irrelevant),
        extractor=extractor.fingerprint,
    )


def _cached(
    key: str, metric: Metric, sides: tuple[Side, Side], protocol: MetricProtocol, cache: Cache
) -> tuple[Values, list[str]]:
    """Values and what was warned of while they were computed."""
    stored = cache.get_json(key)
    if stored is None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values = metric.compute(*sides, protocol)
        stored = {"values": values, "warnings": [str(one.message) for one in caught]}
        cache.put_json(key, stored)
    return stored["values"], stored["warnings"]
