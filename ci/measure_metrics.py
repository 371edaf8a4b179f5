"""Agreement of the distribution metrics with reference implementations, and their time and memory.

    python ci/measure_metrics.py                      # minutes; the table of docs/evaluation.md
    python ci/measure_metrics.py --full               # and precision/recall of 10,000 x 50,000 x 2048

Random features, fixed seeds. Every timed measurement runs in a process of its own, so that its peak memory is its own.
"""

import contextlib
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import scipy.linalg
import torch
import typer
from cleanfid.fid import kernel_distance as cleanfid_kernel_distance
from prdc import compute_prdc
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from fpd_eval.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
    precision_recall,
)

SEEDS = range(5)
DIMENSIONS = 2048
SMALL, LARGE = (4000, 12000), (10000, 50000)


def features(rows: int, dimensions: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Correlated, non-negative float32 rows, like a network's pooled features."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(dimensions, dimensions)).astype(np.float32) / dimensions**0.5
    white = random.standard_normal((rows, dimensions), dtype=np.float32)
    return np.maximum(scale * (white @ mixing) + 0.1, 0)


def frechet_error(seed: int) -> float:
    pair = features(600, 128, seed), features(500, 128, seed + 100, 1.1)
    statistics = [fid_features_to_statistics(torch.from_numpy(rows).double()) for rows in pair]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    return abs(frechet_distance(*pair) / expected - 1)


def frechet_scipy_error(seed: int) -> float:
    pair = features(600, 128, seed).astype(float), features(500, 128, seed + 100, 1.1).astype(float)
    return abs(frechet_distance(*pair) / by_matrix_root(*pair) - 1)


def by_matrix_root(real: np.ndarray, fake: np.ndarray) -> float:
    covariances = [np.cov(rows, rowvar=False) for rows in (real, fake)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    return float(np.sum((real.mean(0) - fake.mean(0)) ** 2) + np.trace(sum(covariances) - 2 * root))


def inception_error(seed: int) -> float:
    logits = torch.from_numpy(features(1003, 40, seed, 4.0)).double()
    expected = isc_features_to_metric(logits, 10, True, 2020)["inception_score_mean"]
    return abs(inception_score(logits)[0] - expected)


def kernel_error(seed: int) -> float:
    fake, real = (torch.from_numpy(features(700, 64, s)).double() for s in (seed, seed + 100))
    options = {"kid_subsets": 20, "kid_subset_size": 300, "verbose": False}
    expected = kid_features_to_metric(fake, real, **options)["kernel_inception_distance_mean"]
    return abs(kernel_distance(real, fake, subsets=20, subset_size=300)[0] - expected)


def kernel_cleanfid_error(seed: int) -> float:
    """One subset of all rows, since clean-fid draws without a seed."""
    real, fake = (features(400, 64, s).astype(float) for s in (seed, seed + 100))
    expected = cleanfid_kernel_distance(real, fake, num_subsets=1, max_subset_size=400)
    return abs(kernel_distance(real, fake, subsets=1, subset_size=400)[0] - expected)


def manifold_error(seed: int) -> float:
    real, fake = features(700, 16, seed), features(600, 16, seed + 100, 1.2)
    expected = quietly(lambda: compute_prdc(real, fake, 5))
    found = manifold_scores(real, fake, precision_recall_k=5, density_coverage_k=5)
    return max(abs(getattr(found, name) - float(value)) for name, value in expected.items())


def manifold_fidelity_error(seed: int) -> float:
    real, fake = (torch.from_numpy(features(700, 16, s)).double() for s in (seed, seed + 100))
    expected = prc_features_to_metric(fake, real, prc_neighborhood=3, prc_batch_size=1000, verbose=False)
    found = precision_recall(real, fake, 3, inclusive=True)
    return max(abs(found[0] - expected["precision"]), abs(found[1] - expected["recall"]))


def quietly(call: Callable[[], dict[str, float]]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        return call()


AGREEMENT: dict[str, Callable[[int], float]] = {
    "Fréchet distance | torch-fidelity | relative": frechet_error,
    "Fréchet distance | scipy `sqrtm` | relative": frechet_scipy_error,
    "inception score | torch-fidelity | absolute": inception_error,
    "KID | torch-fidelity | absolute": kernel_error,
    "KID, one subset | clean-fid | absolute": kernel_cleanfid_error,
    "precision, recall, density, coverage (k = 5, <) | prdc | absolute": manifold_error,
    "precision, recall (k = 3, ≤) | torch-fidelity | absolute": manifold_fidelity_error,
}


def frechet_pair() -> tuple[np.ndarray, np.ndarray]:
    return features(5000, DIMENSIONS, 0), features(5000, DIMENSIONS, 1, 1.1)


def manifold_pair(rows: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return features(rows[0], DIMENSIONS, 0), features(rows[1], DIMENSIONS, 1, 1.05)


def both_k3(pair: tuple[np.ndarray, np.ndarray]) -> list[float]:
    found = manifold_scores(*pair, precision_recall_k=3, density_coverage_k=3)
    return [found.precision, found.recall, found.density, found.coverage]


TIMED: dict[str, tuple[Callable[[], object], Callable[..., object]]] = {
    "Fréchet, 2048-d, fpd": (frechet_pair, lambda pair: frechet_distance(*pair)),
    "Fréchet, 2048-d, scipy `sqrtm`": (frechet_pair, lambda pair: by_matrix_root(*(r.astype(float) for r in pair))),
    "P, R, D, C, {small}, fpd": (lambda: manifold_pair(SMALL), both_k3),
    "P, R, D, C, {small}, prdc": (
        lambda: manifold_pair(SMALL),
        lambda pair: [float(v) for v in quietly(lambda: compute_prdc(*pair, 3)).values()],
    ),
    "P, R, D, C, {large}, fpd": (lambda: manifold_pair(LARGE), both_k3),
}


def title(name: str) -> str:
    sizes = {key: f"{r:,} x {f:,} x {DIMENSIONS}" for key, (r, f) in (("small", SMALL), ("large", LARGE))}
    return name.format(**sizes)


def timed(name: str) -> None:
    """In a fresh process: print value, seconds, and gibibytes before and at the peak."""
    prepare, call = TIMED[name]
    inputs = prepare()
    before = peak_gib()
    start = time.perf_counter()
    value = call(inputs)
    seconds = time.perf_counter() - start
    print(json.dumps({"value": value, "seconds": seconds, "before": before, "peak": peak_gib()}))


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(
    full: Annotated[bool, typer.Option(help="Also the size of the dimo protocol: many minutes.")] = False,
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    if one is not None:
        timed(one)
        return
    print("| metric | against | error | worst of 5 |\n|---|---|---|---|")
    for name, error in AGREEMENT.items():
        print(f"| {name} | {max(error(seed) for seed in SEEDS):.1e} |", flush=True)
    print(f"\n{torch.get_num_threads()} threads\n")
    print("| measurement | value | seconds | peak GiB (inputs) |\n|---|---|---|---|")
    for name in TIMED:
        if "large" in name and not full:
            continue
        done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        values = found["value"] if isinstance(found["value"], list) else [found["value"]]
        shown = ", ".join(f"{value:.6g}" for value in values)
        print(
            f"| {title(name)} | {shown} | {found['seconds']:.1f} | {found['peak']:.1f} ({found['before']:.1f}) |",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
