"""What a comparison found, as plain data: written to `results.json`, read by the report."""

import json
from pathlib import Path

from pydantic import Field, ValidationError

from fpd_core.config import Config, explain
from fpd_eval.curves import Curve
from fpd_eval.machine import Machine
from fpd_eval.protocol import EvaluationProtocol
from fpd_eval.systems import Role


class Row(Config):
    """One system at one step count. `values` holds the metrics by name (see `measures`)."""

    name: str
    role: Role
    steps: int
    network_evaluations: int
    settings: dict[str, str | bool | float] = Field(description="Sampling options.")
    ms_per_image: float = Field(description="On the machine of the result file, decoding included.")
    values: dict[str, float]
    samples: str = Field(description="Base64 PNG: the first measured images, one column per class.")


class Reference(Config):
    """The real images: what a perfect generator would score."""

    num_images: int
    values: dict[str, float]
    samples: str


class Results(Config):
    """A whole comparison."""

    format_version: int = 1
    protocol: EvaluationProtocol
    machine: Machine
    reference: Reference
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...] = ()

    def table(self) -> list[dict[str, str | int | float]]:
        """One flat record per row, every number with the protocol it belongs to."""
        protocol = self.protocol
        return [
            {
                **row.model_dump(exclude={"values", "samples", "settings", "ms_per_image"}),
                **row.values,
                "ms_per_image": row.ms_per_image,
                "protocol": protocol.name,
                "num_images": protocol.num_images,
                "seed": protocol.seed,
            }
            for row in self.rows
        ]


def read_results(path: Path) -> Results:
    """Results of an earlier `compare`.

    Raises:
        ConfigError: not a result file; the message names the key.
        OSError: the file cannot be read.
    """
    try:
        return Results.model_validate(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    except ValidationError as error:
        raise explain(error, str(path)) from None
