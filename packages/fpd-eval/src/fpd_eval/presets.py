"""Protocols of distribution metrics: everything that decides a number besides the images. A new one is a line in
`PROTOCOLS`; docs/evaluation.md tells what each follows and its traps."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from fpd_core.config import Config, nearest
from fpd_eval.image_sets import Rounding

MetricName = Literal["fid", "sfid", "fdd", "fd_classifier", "is", "prc", "kid"]


class MetricProtocol(Config):
    """Numbers of different protocols cannot be compared. The record of every result holds one of these in full."""

    name: str
    metrics: tuple[MetricName, ...] = Field(description="What is measured unless a part is asked for.")
    features: str = Field(description="Extractor of distances, precision, recall, density, coverage and KID.")
    scores: str | None = Field(None, description="Extractor whose logits give the inception score.")
    num_images: PositiveInt = 50000
    num_reference: PositiveInt | None = Field(None, description="Reference images; None takes whatever is there.")
    batch_size: PositiveInt = Field(50, description="Images per call of a generator; other batches, other images.")
    seed: int = Field(0, ge=0, description="Every batch draws from (seed, index of its first image).")
    rounding: Rounding = Field("half_even", description="How generated pixels become 8-bit.")
    statistics: Literal["file", "images"] = Field(
        "images", description="Whether the distance belongs to a published mu/sigma file or to the reference images."
    )
    precision_recall_k: PositiveInt = 3
    density_coverage_k: PositiveInt | None = Field(None, description="None leaves density and coverage out.")
    inclusive: bool = Field(False, description="Whether a point on a neighbour sphere counts as inside.")
    inception_splits: PositiveInt = 10
    inception_split_size: PositiveInt | None = Field(None, description="Rows per split, instead of their number.")
    inception_shuffle: bool = True
    kid_subsets: PositiveInt = 100
    kid_subset_size: PositiveInt = 1000
    reference: Path | None = Field(None, description="The reference unless one is given.")
    source: str = Field(description="The program this follows.")

    @model_validator(mode="after")
    def _measurable(self) -> "MetricProtocol":
        if not self.metrics:
            raise ValueError("metrics must name at least one metric")
        if "is" in self.metrics and self.scores is None:
            raise ValueError("the inception score needs `scores`, an extractor with logits")
        return self

    def sentence(self) -> str:
        """The footnote under every table."""
        return (
            f"Protocol “{self.name}”, which follows {self.source}: {self.num_images} images per system, seed "
            f"{self.seed}, batches of {self.batch_size}, 8-bit by {self.rounding.replace('_', ' ')}, features of "
            f"{self.features}, precision and recall with k = {self.precision_recall_k}."
        )


PROTOCOLS: dict[str, MetricProtocol] = {
    protocol.name: protocol
    for protocol in (
        MetricProtocol(
            name="dimo",
            source="yuanzhi-zhu/DiMO evaluation/{fid,prdc}.py; the protocol of FPD Table 2",
            metrics=("fid", "is", "prc"),
            features="inception_tensorflow",
            scores="inception_fidelity",
            num_reference=10000,
            rounding="half_up",
            statistics="file",
            density_coverage_k=3,
        ),
        MetricProtocol(
            name="adm",
            source="openai/guided-diffusion evaluations/evaluator.py, distances in float64 instead of float16",
            metrics=("fid", "sfid", "is", "prc"),
            features="inception_fidelity",
            scores="inception_fidelity",
            num_reference=10000,
            rounding="truncate",
            statistics="file",
            inclusive=True,
            inception_split_size=5000,
            inception_shuffle=False,
        ),
        MetricProtocol(
            name="clean",
            source="clean-fid mode `clean`; IS of torch-fidelity, precision to coverage of prdc with its k of 5",
            metrics=("fid", "kid", "is", "prc"),
            features="inception_clean",
            scores="inception_fidelity",
            precision_recall_k=5,
            density_coverage_k=5,
        ),
        MetricProtocol(
            name="coco30k",
            source="boomb0om/text2image-benchmark with MS-COCO_val2014_fid_stats.npz; Di[M]O table 8",
            metrics=("fid",),
            features="inception_coco",
            num_images=30000,
            statistics="file",
        ),
        MetricProtocol(
            name="fdd",
            source="layer6ai-labs/dgm-eval, encoder dinov2 vitl14",
            metrics=("fdd",),
            features="dinov2_vitl14",
        ),
        MetricProtocol(
            name="small",
            source="the bundled world; the numbers of `fpd-eval compare`",
            metrics=("fd_classifier", "is", "prc", "kid"),
            features="classifier",
            scores="classifier",
            num_images=10000,
            batch_size=250,
            density_coverage_k=5,
            reference=Path("assets/fashion/data/t10k-images-idx3-ubyte.gz"),
        ),
    )
}


def protocol_called(name: str) -> MetricProtocol:
    """The preset called `name`. Raises ConfigError: there is none."""
    if name not in PROTOCOLS:
        raise nearest(name, list(PROTOCOLS), "protocol")
    return PROTOCOLS[name]
