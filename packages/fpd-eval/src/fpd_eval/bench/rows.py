"""What a comparison found, as plain data: written to `results.json`, read by the report."""

from pathlib import Path
from statistics import stdev
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from fpd_core.config import Config, ConfigError, Count, Flag, Line, Name, Steps, explain
from fpd_core.teachers.fashion import CLASSES
from fpd_core.untrusted import read_json
from fpd_eval.bench.curves import Curve
from fpd_eval.metrics.significance import LEVEL
from fpd_eval.protocols import MetricProtocol
from fpd_eval.runtime.machine import Machine
from fpd_eval.systems.system import Role

FORMAT = 3
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


class SeededRow(Config):
    """A row whose system may have been trained with several seeds: `values` are then means."""

    name: Name
    values: dict[str, Score]
    seeds: tuple[dict[str, Score], ...] = Field((), description="Values of every training seed; empty where one is.")

    def of_seeds(self, metric: str) -> list[float]:
        return [values[metric] for values in self.seeds]

    def sd(self, metric: str) -> float | None:
        """Sample standard deviation over the training seeds; None where there is one."""
        return stdev(self.of_seeds(metric)) if len(self.seeds) > 1 else None

    @property
    def label(self) -> str:
        return f"{self.name} ({len(self.seeds)} {self.drawn})" if self.seeds else self.name

    @property
    def drawn(self) -> str:
        """What `seeds` are the seeds of."""
        return "seeds"


class Row(SeededRow):
    """One system at one step count. `values` holds the metrics by name (see `registry`)."""

    role: Role
    encoders: tuple[Name, ...] | None = Field(
        None, description="Networks that its training's loss compared images with; None: unknown."
    )
    own_judge: Flag = Field(False, description="Whether these are all that judged it.")
    steps: Steps
    network_evaluations: Steps
    settings: dict[str, Any] = Field(description="Sampling options.")
    ms_per_image: Annotated[Score, Field(ge=0)] | None = Field(
        description="On the machine of the result file, decoding included; None for finished images."
    )
    published: dict[str, tuple[Printed, ...]] = Field({}, description="By metric.")
    note: Line = Field("", description="What a reader of the numbers must know.")
    warnings: tuple[str, ...] = ()
    samples: str = Field(description="Base64 PNG: the first measured images, one column per condition.")

    @property
    def is_real(self) -> bool:
        return self.role == "real"

    @property
    def saw(self) -> str:
        """The networks of the training's loss in words; a dash for real images."""
        if self.is_real:
            return "–"
        return "unknown" if self.encoders is None else ", ".join(self.encoders) or "none"

    @property
    def drawn(self) -> str:
        return "splits" if self.is_real else "seeds"

    @property
    def label(self) -> str:
        return super().label + (" (judged by its own loss)" if self.own_judge else "")

    @property
    def complete(self) -> bool:
        """Whether it can be the best: every system, measured whole other than in GenEval, but not the real images."""
        return not self.is_real


class GenEvalRow(SeededRow):
    """GenEval of one system. `values` and `errors` (standard errors over prompts, empty where there are several seeds)
    by published metric name, as `geneval_two`."""

    suite: Name = "geneval"
    steps: Steps | None
    images: Count
    prompts: Count
    complete: Flag = Field(description="Whether these are all 553 prompts: otherwise no GenEval scores.")
    settings: str = Field(description="How images were made and judged; empty where no record tells.")
    detector: Line = Field("unknown", description="Who found the boxes, and how images reached it.")
    colors: Line = Field("unknown", description="Who named the colours.")
    detector_weights: Line = Field("", description="Their hash; empty where no record tells.")
    errors: dict[str, Score]
    published: dict[str, tuple[Printed, ...]] = Field({}, description="By metric.")
    note: Line = ""
    samples: str = Field(
        description="Base64 PNG: one prompt of every task with the judge's boxes; empty where the images are gone."
    )


class Verdict(Config):
    """Two rows with several training seeds in one metric: `difference` of their means, first minus second, and the
    corrected p of there being none. None: no seed differs from another, so that nothing can be tested."""

    metric: Name
    first: Name
    second: Name
    difference: Score
    p: Annotated[Score, Field(ge=0, le=1)] | None

    @property
    def text(self) -> str:
        if self.p is None:
            return "no spread: no verdict"
        return f"{'real difference' if self.p < LEVEL else 'within noise'} (p = {self.p:.2g})"


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
    verdicts: tuple[Verdict, ...] = ()
    warnings: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()

    @model_validator(mode="after")
    def _showable(self) -> "Results":
        rows: list[SeededRow] = [*self.rows, *self.geneval]
        if any(len(curve.steps) != len(curve.values) for curve in self.curves):
            raise ValueError("a curve has other numbers of steps and values")
        if any(row.seeds and not row.values.keys() <= values.keys() for row in rows for values in row.seeds):
            raise ValueError("a seed of a row lacks a value")
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
