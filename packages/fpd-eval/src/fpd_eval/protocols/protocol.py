"""What a number was measured with: recorded beside every result, part of every cache key."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from fpd_core.config import Amount, Config, Flag, Seed, Size, explain
from fpd_core.plugins import names
from fpd_eval.images.image_set import Rounding
from fpd_eval.images.plan import ClassPlan

OwnMetric = Literal[
    "fid",
    "sfid",
    "fdd",
    "fd",
    "sw",
    "mind",
    "cmmd",
    "fd_classifier",
    "fd_efficientnet",
    "is",
    "prc",
    "kid",
    "accuracy",
    "pixels",
    "clip_score_vit_g",
    "clip_score_vit_l",
    "pick_score",
    "hps_v3",
    "hps_v2.0",
    "hps_v2.1",
]


def _known(name: str) -> str:
    known = [*get_args(OwnMetric), *names("fpd.metrics")]
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Input should be {', '.join(map(repr, known))}{hint}")
    return name


MetricName = Annotated[str, AfterValidator(_known)]


class MetricProtocol(Config):
    """Everything that decides a number besides the images. Numbers of different protocols cannot be compared."""

    name: str = Field(description="Stands with every number.")
    source: str = Field(description="The program this follows.")
    metrics: tuple[MetricName, ...] = Field(description="What is measured unless a part is asked for.")
    compared: tuple[MetricName, ...] = Field((), description="What a comparison shows, where that is another choice.")
    features: str = Field(description="Extractor of distances, precision, recall, density, coverage, KID and CLIP.")
    battery: tuple[str, ...] = Field(
        (),
        description="Encoders that all take the place of `features`. The real images are then split in two halves of "
        "`num_images`: one is the reference, what the other is away from it the unit of ratios.",
    )
    real_splits: Amount = Field(
        10, description="Splits of the real images whose mean is the unit; as many others show what real images score."
    )
    scores: str | None = Field(None, description="Extractor whose logits give the inception score and accuracy.")
    num_images: Amount = Field(50000, description="Generated images per system.")
    num_reference: Amount | None = Field(None, description="Reference images; None takes whatever is there.")
    batch_size: Size = Field(50, description="Images per call of a generator; other batches, other images.")
    seed: Seed = Field(0, description="Every batch draws from (seed, index of its first image).")
    rounding: Rounding = Field("half_even", description="How generated pixels become 8-bit.")
    statistics: Literal["file", "images"] = Field(
        "images", description="Whether the distance belongs to a published mu/sigma file or to the reference images."
    )
    precision_recall_k: Amount = Field(3, description="The neighbour whose distance is the radius of a sphere.")
    density_coverage_k: Amount | None = Field(None, description="None leaves density and coverage out.")
    inclusive: Flag = Field(False, description="Whether a point on a neighbour sphere counts as inside.")
    inception_splits: Amount = Field(10, description="Parts of the images; the score is the mean over them.")
    inception_split_size: Amount | None = Field(None, description="Rows per split, instead of their number.")
    inception_shuffle: Flag = Field(True, description="Whether the images are shuffled before they are split.")
    kid_subsets: Amount = Field(100, description="KID is the mean over this many random subsets.")
    kid_subset_size: Amount = Field(1000, description="Images of each side in a subset.")
    reference: Path | None = Field(None, description="The reference unless one is given.")
    class_names: tuple[str, ...] = Field((), description="In label order, where the classes are known.")
    reference_labels: Path | None = Field(None, description="Classes of the reference images, which a table shows.")
    timing_batch_size: Size | None = Field(None, description="Images per timed call; None measures no time.")
    timing_repeats: Amount = Field(3, description="Timed calls after one warm-up; the median counts.")

    @model_validator(mode="after")
    def _measurable(self) -> "MetricProtocol":
        if not self.metrics:
            raise ValueError("metrics must name at least one metric")
        if "is" in self.metrics and self.scores is None:
            raise ValueError("the inception score needs `scores`, an extractor with logits")
        if len(set(self.battery)) < len(self.battery):
            raise ValueError(f"battery names an encoder twice: {', '.join(self.battery)}")
        if self.battery and "kid" in self.metrics and self.num_images < self.kid_subset_size:
            raise ValueError(
                f"num_images must be at least {self.kid_subset_size}, a subset of KID, got {self.num_images}"
            )
        return self

    @model_validator(mode="after")
    def _balanced(self) -> "MetricProtocol":
        classes = len(self.class_names)
        if not classes:
            return self
        if self.num_images % classes:
            raise ValueError(f"num_images must be a multiple of the {classes} classes, got {self.num_images}")
        if self.batch_size < classes:
            raise ValueError(f"batch_size must be at least the {classes} classes, got {self.batch_size}")
        smallest = max(self.precision_recall_k + 1, (self.density_coverage_k or 0) + 1, self.inception_splits)
        if self.num_images < smallest:
            raise ValueError(f"num_images must be at least {smallest} for these metrics, got {self.num_images}")
        return self

    @property
    def is_timed(self) -> bool:
        return self.timing_batch_size is not None

    def plan(self, num_classes: int) -> ClassPlan:
        """The images every system makes. Raises ConfigError: no equal number of every class."""
        fields = self.model_dump(include={"num_images", "batch_size", "seed", "rounding"})
        try:
            return ClassPlan(num_classes=num_classes, **fields)
        except ValidationError as error:
            raise explain(error, "options") from None

    def without_classes(self) -> "MetricProtocol":
        """The same for images that nobody drew class by class."""
        nothing = {"class_names": (), "reference_labels": None, "timing_batch_size": None, "compared": ()}
        return self.model_copy(update=nothing)

    def decisive(self) -> dict[str, Any]:
        """What a cached number depends on besides metric, images, reference and weights."""
        names = {"name", "source", "metrics", "compared", "class_names"}
        places = {"reference", "reference_labels", "timing_batch_size", "timing_repeats", "battery", "real_splits"}
        return self.model_dump(mode="json", exclude=names | places) | ({"halves": True} if self.battery else {})

    def sentence(self) -> str:
        """The footnote under every table."""
        common = f"{self.num_images} images per system"
        drawn = f"seed {self.seed}, batches of {self.batch_size}"
        if self.battery:
            return (
                f"Protocol “{self.name}”: {common}, {drawn}, against a random half of as many real images. Ratios are "
                f"in units of what the other half is away from it, the mean of {self.real_splits} splits, and plain "
                f"means over {', '.join(self.battery)}. FD: Fréchet distance; SW: "
                "sliced Wasserstein distance; MIND: 3 D SW²; CMMD: of normalised features; KID: mean of "
                f"{self.kid_subsets} subsets of {self.kid_subset_size}."
            )
        k = f"precision and recall with k = {self.precision_recall_k}"
        if not self.class_names:
            return (
                f"Protocol “{self.name}”, which follows {self.source}: {common}, {drawn}, 8-bit by "
                f"{self.rounding.replace('_', ' ')}, features of {self.features}, {k}."
            )
        part = "" if self.num_reference is None else f"the first {self.num_reference} images of "
        real = "" if self.reference is None else f", reference {part}{self.reference.name}"
        return (
            f"Protocol “{self.name}”: {common}, classes interleaved, {drawn}, images rounded to 8 bits{real}. "
            f"IS over {self.inception_splits} splits, {k}, density and coverage with k = {self.density_coverage_k} "
            f"({'≤' if self.inclusive else '<'}), all four and IS in {self.features} space."
            + f" ms/image: median on this machine, {self.timing_batch_size} images at a time."
            * self.is_timed
        )
