"""Every metric: what it reads, what it needs beside the images, how it counts. A new one is a function of
`fpd_eval.metrics` and a line in `METRICS`, or a package with an entry point."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from torch import Tensor

from fpd_core.plugins import Registry
from fpd_core.sections import one_of
from fpd_eval.metrics import (
    cmmd,
    inception_score,
    kernel_distance,
    manifold_scores,
    monge_distance,
    precision_recall,
    sliced_wasserstein,
)
from fpd_eval.metrics.clip_score import clip_score_vit_g, clip_score_vit_l
from fpd_eval.metrics.frechet import Gaussian, frechet_between, gaussian
from fpd_eval.metrics.hpsv2 import STYLES, HpsVersion, aggregate, hps_scores
from fpd_eval.metrics.preference import mean_reward, pick_score
from fpd_eval.protocols import MetricProtocol

Values = dict[str, float]


@dataclass(frozen=True)
class Side:
    """One of the two compared sets, as one extractor saw it: outputs [N, ...] of its images, `statistics` from a file
    by output, classes or groups of the images."""

    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Gaussian] = field(default_factory=dict)
    labels: Tensor | None = None
    _fitted: dict[str, Gaussian] = field(default_factory=dict)

    def gaussian(self, output: str) -> Gaussian:
        """Of the file if there is one. Fitted once: the real side meets every system."""
        if output in self.statistics:
            return self.statistics[output]
        if output not in self._fitted:
            self._fitted[output] = gaussian(self.outputs[output], output)
        return self._fitted[output]


@dataclass(frozen=True)
class Metric:
    """`extractor` is a role of the protocol, "features" or "scores", or else an extractor by name.

    `reads` is the extractor's output whose reference statistics suffice, where `reference` is "statistics". `beside`
    says what the images must bring along. `ratio` is the name of the distance in units of real images: only of one
    whose mean over real images is above 0.
    """

    extractor: str
    compute: Callable[[Side, Side, MetricProtocol], Values]
    reads: str = "features"
    reference: Literal["statistics", "images", "nothing"] = "nothing"
    beside: Literal["classes", "captions"] | None = None
    ratio: str | None = None

    def extractors_of(self, protocol: MetricProtocol) -> tuple[str, ...]:
        """One, or every encoder of a battery."""
        if self.extractor == "features" and protocol.battery:
            return protocol.battery
        roles = {"features": protocol.features, "scores": protocol.scores}
        return (str(roles.get(self.extractor, self.extractor)),)

    def needs_images_of(self, statistics: Mapping[str, Gaussian]) -> bool:
        """Whether a reference with these statistics, always of the protocol's features, must also have images."""
        is_answered = self.extractor == "features" and self.reads in statistics
        return self.reference == "images" or (self.reference == "statistics" and not is_answered)


def _frechet(
    name: str,
    output: str = "features",
    extractor: str = "features",
    *,
    reference: Literal["statistics", "images"] = "statistics",
    ratio: str | None = None,
) -> Metric:
    def compute(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
        return {name: frechet_between(real.gaussian(output), fake.gaussian(output))}

    return Metric(extractor, compute, output, reference, ratio=ratio)


def _inception_score(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    mean, std = inception_score(
        fake.outputs["logits"],
        protocol.inception_splits,
        split_size=protocol.inception_split_size,
        shuffle=protocol.inception_shuffle,
    )
    return {"inception_score": mean, "inception_score_std": std}


def _manifold(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    pair = real.outputs["features"], fake.outputs["features"]
    k, density_k, inclusive = protocol.precision_recall_k, protocol.density_coverage_k, protocol.inclusive
    if density_k is None:
        return dict(zip(("precision", "recall"), precision_recall(*pair, k, inclusive=inclusive), strict=True))
    return asdict(manifold_scores(*pair, precision_recall_k=k, density_coverage_k=density_k, inclusive=inclusive))


def _kernel(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    pair = real.outputs["features"], fake.outputs["features"]
    mean, std = kernel_distance(*pair, subsets=protocol.kid_subsets, subset_size=protocol.kid_subset_size)
    return {"kid": mean, "kid_std": std}


def _distance(name: str, between: Callable[[Tensor, Tensor], float], ratio: str | None = None) -> Metric:
    """A distance of feature sets, of the real images to others."""

    def compute(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
        return {name: between(real.outputs["features"], fake.outputs["features"])}

    return Metric("features", compute, reference="images", ratio=ratio)


def _class_accuracy(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    """Share of images whose strongest logit is the class that was asked for."""
    assert fake.labels is not None
    return {"class_accuracy": float((fake.outputs["logits"].argmax(dim=1) == fake.labels).double().mean())}


def _pixels(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    """Brightness and contrast: mean and standard deviation over all pixels of all images, which are equally large."""
    mean, variance = fake.outputs["moments"].double().unbind(dim=1)
    # The variance of all is the mean one within images and the one between their means.
    return {"mean_pixel": float(mean.mean()), "pixel_std": float(variance.mean() + mean.var(correction=0)) ** 0.5}


def _clip(name: str, score: Callable[[Tensor, Tensor], float]) -> Metric:
    def compute(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
        return {name: score(fake.outputs["images"], fake.outputs["texts"])}

    return Metric("features", compute, beside="captions")


def _pick_score(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    seen = fake.outputs
    return {"pick_score": pick_score(seen["images"], seen["texts"], float(seen["scale"][0, 0]))}


def _hps_v3(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
    return {"hps_v3": mean_reward(fake.outputs["rewards"])}


def _hps(version: HpsVersion) -> Metric:
    """Mean over the groups of every style and its standard deviation; the images' groups are the styles."""

    def compute(real: Side, fake: Side, protocol: MetricProtocol) -> Values:
        scores = hps_scores(fake.outputs["images"], fake.outputs["texts"])
        found = aggregate({style: scores[fake.labels == number] for number, style in enumerate(STYLES)}, version)
        spread = {f"hps_{version}_{style}_std": score.std for style, score in found.styles.items()}
        return found.columns() | spread

    return Metric("features", compute, beside="captions")


_OWN: dict[str, Metric | str] = {
    "fid": _frechet("fid"),
    "sfid": _frechet("sfid", "spatial"),
    "fdd": _frechet("fdd"),
    "fd": _frechet("fd", reference="images", ratio="fdr"),
    "sw": _distance("sw", sliced_wasserstein, ratio="swr"),
    "mind": _distance("mind", monge_distance),
    "cmmd": _distance("cmmd", cmmd, ratio="cmmdr"),
    "fd_classifier": _frechet("fd_classifier"),
    "fd_efficientnet": _frechet("fd_efficientnet", extractor="efficientnet_lite0"),
    "is": Metric("scores", _inception_score),
    "prc": Metric("features", _manifold, reference="images"),
    "kid": Metric("features", _kernel, reference="images"),
    "accuracy": Metric("scores", _class_accuracy, beside="classes"),
    "pixels": Metric("pixels", _pixels),
    "clip_score_vit_g": _clip("clip_score_vit_g", clip_score_vit_g),
    "clip_score_vit_l": _clip("clip_score_vit_l", clip_score_vit_l),
    "pick_score": Metric("features", _pick_score, beside="captions"),
    "hps_v3": Metric("features", _hps_v3, beside="captions"),
    "hps_v2.0": _hps("v2.0"),
    "hps_v2.1": _hps("v2.1"),
}
METRICS = Registry("fpd.metrics", "metric", _OWN, one_of(Metric))
