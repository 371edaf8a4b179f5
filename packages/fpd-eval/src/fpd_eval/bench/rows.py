"""What a comparison found, as plain data: written to `results.json`, read by the report."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from fpd_core.config import Config, ConfigError, explain
from fpd_core.teachers.fashion import CLASSES
from fpd_core.untrusted import read_json
from fpd_eval.bench.curves import Curve
from fpd_eval.protocols import MetricProtocol
from fpd_eval.runtime.machine import Machine
from fpd_eval.systems.system import Role

FORMAT = 2
RESULT_BYTES = 2**28  # pictures of all rows included


class Printed(Config):
    """A value that a paper prints for a measured system: never the same number as the measured one."""

    value: float
    source: str = Field(description="As in: FPD, table 2.")
    title: str = Field(description="What the table shows.")
    protocol: str
    difference: str = Field("", description="How its protocol differs from ours; empty where they agree.")
    note: str = Field("", description="About the row, by who read it off.")


class Row(Config):
    """One system at one step count. `values` holds the metrics by name (see `registry`)."""

    name: str
    role: Role
    steps: int
    network_evaluations: int
    settings: dict[str, Any] = Field(description="Sampling options.")
    ms_per_image: float | None = Field(
        description="On the machine of the result file, decoding included; None for finished images."
    )
    values: dict[str, float]
    published: dict[str, tuple[Printed, ...]] = Field({}, description="By metric.")
    note: str = Field("", description="What a reader of the numbers must know.")
    warnings: tuple[str, ...] = ()
    samples: str = Field(description="Base64 PNG: the first measured images, one column per condition.")

    @property
    def complete(self) -> bool:
        """Other than GenEval's, every row holds the whole measurement."""
        return True


class GenEvalRow(Config):
    """GenEval of one system. `values` and `errors` (standard errors) by published metric name, as `geneval_two`."""

    name: str
    suite: str = "geneval"
    steps: int | None
    images: int
    prompts: int
    complete: bool = Field(description="Whether these are all 553 prompts: otherwise no GenEval scores.")
    settings: str = Field(description="How images were made and judged; empty where no record tells.")
    values: dict[str, float]
    errors: dict[str, float]
    published: dict[str, tuple[Printed, ...]] = Field({}, description="By metric.")
    note: str = ""
    samples: str = Field(description="Base64 JPEG: one prompt of every task; empty where the images are gone.")


class Reference(Config):
    """The real images: what a perfect generator would score."""

    num_images: int
    values: dict[str, float]
    samples: str


class Results(Config):
    """A whole comparison."""

    format_version: int = FORMAT
    protocol: MetricProtocol | None = Field(description="Of `rows`; None where there are none.")
    machine: Machine
    reference: Reference | None
    rows: tuple[Row, ...]
    conditions: tuple[str, ...] = Field(CLASSES, description="Columns of every row's samples.")
    geneval: tuple[GenEvalRow, ...] = ()
    prompts: tuple[str, ...] = Field((), description="Columns of every GenEval row's samples.")
    warnings: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()


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
