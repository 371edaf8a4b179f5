"""What a number was measured with: recorded beside every result, part of every cache key."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from fpd_core.config import Config
from fpd_core.teachers.fashion import CLASSES
from fpd_eval.image_sets import Plan


class EvaluationProtocol(Config):
    """The small world's protocol. Numbers of different protocols cannot be compared."""

    name: Literal["small"] = "small"
    num_images: int = Field(10000, gt=0, description="Generated images per system.")
    class_names: tuple[str, ...] = Field(CLASSES, description="One name per class, in label order.")
    labels: Literal["interleaved"] = Field("interleaved", description="Image i shows class i mod the class count.")
    seed: int = Field(0, ge=0, description="Every batch draws from (seed, index of its first image).")
    batch_size: PositiveInt = Field(250, description="Part of the protocol: other batches draw other images.")
    rounding: Literal["uint8"] = Field(
        "uint8", description="Before features images become 8-bit: round(255 x), halves to even, clipped to [0, 255]."
    )
    precision_recall_k: PositiveInt = 3
    density_coverage_k: PositiveInt = 5
    inclusive: bool = Field(False, description="Whether a point on a neighbour sphere counts as inside.")
    inception_splits: PositiveInt = 10
    reference_images: Path = Path("assets/fashion/data/t10k-images-idx3-ubyte.gz")
    reference_labels: Path = Path("assets/fashion/data/t10k-labels-idx1-ubyte.gz")
    num_references: PositiveInt | None = Field(None, description="The first so many reference images; all by default.")
    classifier: Path = Field(Path("assets/fashion/classifier"), description="Weight folder of the evaluator.")
    timing_batch_size: PositiveInt = Field(25, description="Images per call when ms per image is measured.")
    timing_repeats: PositiveInt = Field(3, description="Timed calls after one warm-up; the median counts.")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def plan(self) -> Plan:
        """The images every system makes."""
        return Plan(
            num_images=self.num_images, num_classes=self.num_classes, batch_size=self.batch_size, seed=self.seed
        )

    @model_validator(mode="after")
    def _balanced(self) -> "EvaluationProtocol":
        if self.num_images % self.num_classes:
            raise ValueError(f"num_images must be a multiple of the {self.num_classes} classes, got {self.num_images}")
        if self.batch_size < self.num_classes:
            raise ValueError(f"batch_size must be at least the {self.num_classes} classes, got {self.batch_size}")
        smallest = max(self.precision_recall_k + 1, self.density_coverage_k + 1, self.inception_splits)
        if self.num_images < smallest:
            raise ValueError(f"num_images must be at least {smallest} for these metrics, got {self.num_images}")
        return self

    def sentence(self) -> str:
        """The footnote under every table."""
        part = "" if self.num_references is None else f"the first {self.num_references} images of "
        return (
            f"Protocol “{self.name}”: {self.num_images} images per system, classes interleaved, seed {self.seed}, "
            f"batches of {self.batch_size}, images rounded to 8 bits, reference {part}{self.reference_images.name}. "
            f"IS over {self.inception_splits} splits, precision and recall with k = {self.precision_recall_k}, density "
            f"and coverage with k = {self.density_coverage_k} ({'≤' if self.inclusive else '<'}), all four and IS in "
            "classifier space. ms/image: median on this machine, "
            f"{self.timing_batch_size} images at a time."
        )
