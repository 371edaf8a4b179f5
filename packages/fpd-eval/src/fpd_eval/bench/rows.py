"""What a comparison found, as plain data: written to `results.json`, read by the report."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from fpd_core.config import Config, ConfigError, Count, Flag, Line, Name, Steps, explain
from fpd_core.teachers.fashion import CLASSES
from fpd_core.untrusted import read_json
from fpd_eval.bench.curves import Curve
from fpd_eval.protocols import MetricProtocol
from fpd_eval.runtime.machine import Machine
from fpd_eval.systems.system import Role

FORMAT = 2
RESULT_BYTES = 2**26  # pictures of all rows included
Score = Annotated[float, Field(strict=True, ge=-1e15, le=1e15)]


class Printed(Config):
    """A value that a paper prints for a measured system: never the same number as the measured one."""

    value: Score
    source: Line = Field(description="As in: FPD, table 2.")
    title: Line = Field(description="What the table shows.")
    protocol: Line
    difference: Line = Field("", description="How its protocol differs from ours; empty where they agree.")
    note: Line = Field("", description="About the row, by who read it off.")


class Row(Config):
    """One system at one step count. `values` holds the metrics by name (see `registry`)."""

    name: Name
    role: Role
    steps: Steps
    network_evaluations: Steps
    settings: dict[str, Any] = Field(description="Sampling options.")
    ms_per_image: Annotated[Score, Field(ge=0)] | None = Field(
        description="On the machine of the result file, decoding included; None for finished images."
    )
    values: dict[str, Score]
    published: dict[str, tuple[Printed, ...]] = Field({}, description="By metric.")
    note: Line = Field("", description="What a reader of the numbers must know.")
    warnings: tuple[str, ...] = ()
    samples: str = Field(description="Base64 PNG: the first measured images, one column per condition.")

    @property
    def complete(self) -> bool:
        """Other than GenEval's, every row holds the whole measurement."""
        return True


class GenEvalRow(Config):
    """GenEval of one system. `values` and `errors` (standard errors) by published metric name, as `geneval_two`."""

    name: Name
    suite: Name = "geneval"
    steps: Steps | None
    images: Count
    prompts: Count
    complete: Flag = Field(description="Whether these are all 553 prompts: otherwise no GenEval scores.")
    settings: str = Field(description="How images were made and judged; empty where no record tells.")
    values: dict[str, Score]
    errors: dict[str, Score]
    published: dict[str, tuple[Printed, ...]] = Field({}, description="By metric.")
    note: Line = ""
    samples: str = Field(
        description="Base64 PNG: one prompt of every task with the judge's boxes; empty where the images are gone."
    )


class Reference(Config):
    """The real images: what a perfect generator would score."""

    num_images: Count
    values: dict[str, Score]
    samples: str


class Results(Config):
    """A whole comparison."""

    format_version: int = FORMAT
    protocol: MetricProtocol | None = Field(description="Of `rows`; None where there are none.")
    machine: Machine
    reference: Reference | None
    rows: tuple[Row, ...]
    conditions: tuple[Line, ...] = Field(CLASSES, description="Columns of every row's samples.")
    geneval: tuple[GenEvalRow, ...] = ()
    prompts: tuple[Line, ...] = Field((), description="Columns of every GenEval row's samples.")
    warnings: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()

    @model_validator(mode="after")
    def _showable(self) -> "Results":
        if any(len(curve.steps) != len(curve.values) for curve in self.curves):
            raise ValueError("a curve has other numbers of steps and values")
        if self.reference and not {"inception_score", "class_accuracy"} <= self.reference.values.keys():
            raise ValueError("the reference lacks its inception_score or class_accuracy")
        if ((self.rows or self.reference) and not self.conditions) or (self.geneval and not self.prompts):
            raise ValueError("the pictures of the samples lack their conditions or prompts")
        return self


def read_results(path: Path) -> Results:
    """Results of an earlier `compare`.

    Raises:
        ConfigError: absent, or not a result file; the message names the key.
    """
    stored = read_json(path, max_bytes=RESULT_BYTES, error=ConfigError)
    if stored.get("format_version") != FORMAT:
        raise ConfigError(f"{path} was written by another version of fpd-eval; run `fpd-eval compare` again")
    try:
        return Results.model_validate(stored)
    except ValidationError as error:
        raise explain(error, str(path)) from None
