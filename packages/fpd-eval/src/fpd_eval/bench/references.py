"""What generated images are measured against: published statistics, images, or both in one ADM file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpd_core.hashing import hash_tensors
from fpd_core.places import bundled
from fpd_core.untrusted import shown
from fpd_core.untrusted.arrays import ArrayArchive
from fpd_eval.images.image_files import open_images
from fpd_eval.images.image_set import ImageSet, idx_images
from fpd_eval.metrics.frechet import Gaussian

# Extractor output -> names of its mean and covariance in ADM's files.
STATISTICS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class Reference:
    """`statistics` by extractor output, hashed in `identity`; `images` for metrics that need single features."""

    title: str
    images: ImageSet[Tensor] | None = None
    statistics: Mapping[str, Gaussian] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)


def open_reference(
    paths: Sequence[Path], batch_size: int, *, labels: Path | None = None, limit: int | None = None
) -> Reference:
    """One reference from files: statistics of the first that has any, images of the first that has any.

    A file is a folder of images, grey IDX images (`.gz`, the bundled world), or an `.npz` with images (`arr_0`),
    statistics (`mu`, `sigma`, and `mu_s`, `sigma_s` for sFID) or both. Statistics in a file take precedence over its
    images, as in ADM's evaluator.

    Args:
        labels: classes of IDX images.
        limit: only so many of the IDX images.

    Raises:
        ValueError: a file is absent, damaged, or holds neither.
    """
    found = [_open(path, batch_size, labels, limit) for path in paths]
    images = next((one.images for one in found if one.images is not None), None)
    statistics = next((one for one in found if one.statistics), None)
    return Reference(
        title=", ".join(one.title for one in found),
        images=images,
        statistics=statistics.statistics if statistics else {},
        identity=statistics.identity if statistics else {},
    )


def _open(path: Path, batch_size: int, labels: Path | None, limit: int | None) -> Reference:
    path = bundled(path)
    if not path.exists():
        raise ValueError(f"reference {path} does not exist")
    if path.suffix == ".gz":
        return Reference(path.name, idx_images(path, batch_size, limit, labels_path=labels))
    if path.suffix != ".npz":
        return Reference(path.name, open_images(path, batch_size))
    with ArrayArchive(path) as file:
        names = set(file.names)
        statistics = {
            output: _gaussian(file, path, mean, covariance)
            for output, (mean, covariance) in STATISTICS.items()
            if mean in names or covariance in names
        }
    if not statistics and "arr_0" not in names:
        raise ValueError(
            f"{path} holds neither images (arr_0) nor statistics (mu, sigma), only {', '.join(map(shown, names))}"
        )
    identity = {
        output: hash_tensors({"mean": one.mean, "covariance": one.covariance}) for output, one in statistics.items()
    }
    images = open_images(path, batch_size) if "arr_0" in names else None
    return Reference(path.name, images, statistics, identity)


def _gaussian(file: ArrayArchive, path: Path, mean_name: str, covariance_name: str) -> Gaussian:
    if not {mean_name, covariance_name} <= set(file.names):
        raise ValueError(f"{path}: {mean_name} and {covariance_name} come together, one is missing")
    arrays = [file.read(name) for name in (mean_name, covariance_name)]
    if not all(array.dtype.kind in "fiu" for array in arrays):
        raise ValueError(f"{path}: {mean_name} and {covariance_name} must be numbers, got {[a.dtype for a in arrays]}")
    mean, covariance = (torch.from_numpy(array.astype(np.float64)) for array in arrays)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise ValueError(f"{path}: {mean_name} and {covariance_name} must be [D] and [D, D], got {shapes}")
    if not bool(mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError(f"{path}: {mean_name} or {covariance_name} contains NaN or infinity")
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * float(covariance.abs().max())):
        raise ValueError(f"{path}: {covariance_name} is not symmetric")
    return Gaussian(mean, covariance)
