"""From a system to its row: images, metrics, sample pictures, time; all cached by content."""

import base64
import io
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fpd_eval.bench.battery import is_judged_by_its_loss, real_against_real
from fpd_eval.bench.bench import Bench, measure_images
from fpd_eval.bench.registry import METRICS, Side, Values
from fpd_eval.bench.rows import Reference, Row
from fpd_eval.bench.timing import milliseconds_per_image
from fpd_eval.images.image_set import ImageSet
from fpd_eval.runtime.machine import this_machine
from fpd_eval.systems.system import System

SAMPLES_PER_CLASS, SHOWN = 3, 10
SECOND_HALF = "real, second half"


def conditions(bench: Bench, num_classes: int) -> tuple[str, ...]:
    """Of the images that the report shows, one column each."""
    protocol = bench.protocol
    return protocol.class_names or tuple(
        f"class {number % num_classes}" for number in range(min(SHOWN, protocol.num_images))
    )


def measure(system: System, bench: Bench, *, num_classes: int | None = None) -> Row:
    """Every number of one system.

    Args:
        num_classes: of a comparison whose protocol names none; by default the system's own.

    Raises:
        ValueError: unusable images or features, or a folder with too few images or images of another size.
        CheckpointError: an extractor's weights are absent or damaged.
    """
    protocol = bench.protocol
    num_classes = len(protocol.class_names) or num_classes or system.num_classes or 1
    own_judge = is_judged_by_its_loss(system.encoders, bench)
    images = system.image_set(protocol.plan(num_classes))
    if system.is_finished and protocol.class_names:
        _require_size(images, bench)
    found = measure_images(images, bench)
    assert found is not None  # a comparison is one process
    return Row(
        name=system.name,
        role=system.role,
        steps=system.steps,
        network_evaluations=system.network_evaluations,
        settings=system.settings,
        encoders=system.encoders,
        own_judge=own_judge,
        ms_per_image=_cached_time(system, bench) if protocol.is_timed and not system.is_finished else None,
        values=found.values,
        warnings=found.warnings,
        samples=_cached_strip(images, bench, len(conditions(bench, num_classes))),
    )


def measure_reference(bench: Bench) -> Reference | None:
    """The scores of the real images that need no second set, and one sample strip; None without their classes, and for
    a battery, in whose table they have a row."""
    protocol, real = bench.protocol, bench.reference.images
    if real is None or real.labels is None or protocol.battery:
        return None
    own = [METRICS[name] for name in bench.metrics if METRICS[name].reference == "nothing"]
    seen = bench.features(real, sorted({one for metric in own for one in metric.extractors_of(protocol)}))
    sides = {name: Side(outputs, labels=real.labels) for name, outputs in seen.items()}
    values: Values = {}
    for metric in own:
        (seen_by,) = metric.extractors_of(protocol)
        side = sides[seen_by]
        values |= metric.compute(side, side, protocol)
    classes = range(len(protocol.class_names))
    return Reference(num_images=real.count, values=values, samples=_real_strip(real, len(classes)))


def second_half(bench: Bench, num_classes: int) -> Row:
    """The row of the real images in a battery's table: means over splits, which stand where others have seeds."""
    found, real = real_against_real(bench), bench.reference.images
    assert real is not None, "a battery is opened with real images"
    return Row(
        name=SECOND_HALF,
        role="real",
        steps=1,
        network_evaluations=1,
        settings={},
        encoders=(),
        ms_per_image=None,
        values={name: fmean(values[name] for values in found) for name in found[0]},
        seeds=tuple(found),
        samples=_real_strip(real, len(conditions(bench, num_classes))),
    )


def _real_strip(real: ImageSet[Tensor], columns: int) -> str:
    """Of every class the first images; without classes the first images."""
    if real.labels is None:
        return strip(real.batch(0)[:columns], columns)
    chosen = [(real.labels == label).nonzero().flatten()[:SAMPLES_PER_CLASS] for label in range(columns)]
    return strip(torch.cat(list(real.batches()))[torch.stack(chosen, dim=1).flatten()], columns)


def strip(pixels: Tensor, columns: int) -> str:
    """uint8 [rows * columns, 3, H, W] -> base64 PNG, rows of `columns` images."""
    rows = len(pixels) // columns
    grid = pixels[: rows * columns].view(rows, columns, *pixels.shape[1:])
    picture = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    buffer = io.BytesIO()
    Image.fromarray(picture.contiguous().numpy()).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _require_size(images: ImageSet[Tensor], bench: Bench) -> None:
    real = bench.reference.images
    found, wanted = (None if one is None else tuple(one.batch(0).shape[:1:-1]) for one in (images, real))
    if wanted is not None and found != wanted:
        raise ValueError(f"{images.title} holds images of {found} pixels, the real images have {wanted}")


def _cached_strip(images: ImageSet[Tensor], bench: Bench, columns: int) -> str:
    """The first measured images, so that the grid is not a choice."""
    rows = SAMPLES_PER_CLASS if bench.protocol.class_names else 1
    parts = {"images": images.identity, "shown": [rows, columns]}
    return str(_cached(bench, "samples", parts, lambda: strip(images.batch(0)[: rows * columns], columns)))


def _cached_time(system: System, bench: Bench) -> float:
    device = bench.place.device
    parts = {
        "system": system.fingerprint,
        "machine": this_machine(device).model_dump(),
        "timing": bench.protocol.model_dump(include={"timing_batch_size", "timing_repeats"}),
    }
    return float(_cached(bench, "time", parts, lambda: milliseconds_per_image(system, bench.protocol, device)))


def _cached(bench: Bench, kind: str, parts: dict[str, Any], make: Callable[[], Any]) -> Any:
    key = bench.place.cache.key(kind, **parts)
    found = bench.place.cache.get_json(key)
    if found is None:
        found = make()
        bench.place.cache.put_json(key, found)
    return found
