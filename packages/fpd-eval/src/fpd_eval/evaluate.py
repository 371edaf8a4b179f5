"""From systems to rows: images, features, metrics, time; everything cached by content."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fpd_eval.cache import Cache
from fpd_eval.extractors import Extractor, load_extractor
from fpd_eval.features import features
from fpd_eval.image_sets import ImageSet, LabelledImages, Plan, generated_images, labelled_idx_images
from fpd_eval.machine import this_machine
from fpd_eval.measures import MEASURES, Sample, class_accuracy, inception
from fpd_eval.progress import Track, silent
from fpd_eval.protocol import EvaluationProtocol
from fpd_eval.results import Reference, Row
from fpd_eval.system_kinds.folder import FolderSystem
from fpd_eval.systems import System
from fpd_eval.timing import milliseconds_per_image

SAMPLES_PER_CLASS = 3


@dataclass(frozen=True)
class Bench:
    """Where systems are measured: the protocol, the loaded extractors, the cache and the real images' features."""

    protocol: EvaluationProtocol
    extractors: Mapping[str, Extractor]
    cache: Cache
    device: torch.device
    track: Track
    real_set: LabelledImages
    real: Sample

    @property
    def conditions(self) -> tuple[str, ...]:
        """Of the images that the report shows."""
        return self.protocol.class_names


def open_bench(
    protocol: EvaluationProtocol, cache: Cache, *, device: torch.device | str = "cpu", track: Track = silent
) -> Bench:
    """Load the extractors and the features of the real images.

    Raises:
        ValueError: the reference files are absent or damaged.
        CheckpointError: an extractor's weights are absent or damaged.
    """
    device = torch.device(device)
    real_set = labelled_idx_images(
        protocol.reference_images, protocol.reference_labels, protocol.batch_size, protocol.num_references
    )
    extractors = {
        "classifier": load_extractor("classifier", device, protocol.classifier),
        "efficientnet_lite0": load_extractor("efficientnet_lite0", device),
    }
    outputs = features(real_set, extractors, cache, track)
    return Bench(protocol, extractors, cache, device, track, real_set, Sample(real_set.labels, outputs))


def reference(bench: Bench) -> Reference:
    """The scores of the real images that need no second set, and one sample strip."""
    values = {
        name: value
        for measure in (inception, class_accuracy)
        for name, value in measure(bench.real, bench.real, bench.protocol).items()
    }
    labels, classes = bench.real.labels, bench.protocol.num_classes
    columns = [(labels == label).nonzero().flatten()[:SAMPLES_PER_CLASS] for label in range(classes)]
    shown = torch.stack(columns, dim=1).flatten()
    pixels = torch.cat(list(bench.real_set.batches()))[shown]
    return Reference(num_images=len(labels), values=values, samples=strip(pixels, classes))


def measure(system: System, bench: Bench) -> Row:
    """Every number of one system. Metrics are cached by content, the time also by machine.

    Raises:
        ValueError: unusable images or features, or a folder with too few images or images of another size.
    """
    metrics = _cached_metrics(system, bench)
    return Row(
        name=system.name,
        role=system.role,
        steps=system.steps,
        network_evaluations=system.network_evaluations,
        settings=system.settings,
        ms_per_image=None if isinstance(system, FolderSystem) else _cached_time(system, bench),
        **metrics,
    )


def _cached_metrics(system: System, bench: Bench) -> dict[str, Any]:
    images, protocol = system_images(system, bench.protocol.plan), bench.protocol
    key = bench.cache.key(
        "metrics",
        images=images.identity,
        real=bench.real_set.identity,
        extractors={name: extractor.fingerprint for name, extractor in bench.extractors.items()},
        protocol=protocol.model_dump(mode="json", exclude={"reference_images", "reference_labels", "classifier"}),
        measures=[function.__name__ for function in MEASURES],
    )
    found: dict[str, Any] | None = bench.cache.get_json(key)
    if found is None:
        if isinstance(system, FolderSystem):
            _require_size(images, bench.real_set)
        fake = Sample(images.labels, features(images, bench.extractors, bench.cache, bench.track))
        values: dict[str, float] = {}
        for function in MEASURES:
            values |= function(bench.real, fake, protocol)
        count = SAMPLES_PER_CLASS * protocol.num_classes
        # The first measured images, so that the grid is not a choice.
        found = {
            "values": values,
            "samples": strip(images.batch(0)[:count], protocol.num_classes),
        }
        bench.cache.put_json(key, found)
    return found


def _cached_time(system: System, bench: Bench) -> float:
    machine = this_machine(bench.device).model_dump()
    timing = bench.protocol.model_dump(include={"timing_batch_size", "timing_repeats"})
    key = bench.cache.key("time", system=system.fingerprint, machine=machine, timing=timing)
    milliseconds: float | None = bench.cache.get_json(key)
    if milliseconds is None:
        milliseconds = milliseconds_per_image(system, bench.protocol, bench.device)
        bench.cache.put_json(key, milliseconds)
    return milliseconds


def system_images(system: System, plan: Plan) -> LabelledImages:
    """The images of a system: the plan's, or those that a folder holds already."""
    return system.image_set(plan) if isinstance(system, FolderSystem) else generated_images(system, plan)


def _require_size(images: ImageSet, real: ImageSet) -> None:
    found, wanted = (tuple(one.batch(0).shape[:1:-1]) for one in (images, real))
    if found != wanted:
        raise ValueError(f"{images.title} holds images of {found} pixels, the real images have {wanted}")


def strip(pixels: Tensor, columns: int) -> str:
    """uint8 [rows * columns, 3, H, W] -> base64 PNG, rows of `columns` images."""
    rows = len(pixels) // columns
    grid = pixels[: rows * columns].view(rows, columns, *pixels.shape[1:])
    picture = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    buffer = io.BytesIO()
    Image.fromarray(picture.contiguous().numpy()).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
