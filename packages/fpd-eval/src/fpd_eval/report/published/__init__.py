"""What papers and repositories print, with the place it stands in. Never mixed with what was measured here."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import Field, PositiveInt, model_validator

from fpd_core.config import Config

__all__ = ["PublishedRow", "PublishedTable", "PublishedTables", "PublishedValue", "published", "published_tables"]


class PublishedRow(Config):
    """One printed row. What the source does not print is None or absent."""

    method: str
    steps: PositiveInt | None = Field(description="Network evaluations per image, as printed.")
    values: dict[str, float] = Field(description="Metric name -> value as printed; hps × 100, GenEval and CLIP not.")
    protocol: str | None = Field(None, description="Where it differs from the table's.")
    note: str | None = None
    teacher: str | None = None
    section: str | None = None
    parameters: str | None = None
    aux_score_net: bool | None = Field(None, description="Whether training needs a second trained score network.")
    guidance_scale: float | None = None
    settings: dict[str, Any] = Field({}, description="What an ablation varies.")


class PublishedTable(Config):
    """`protocol` is how the numbers were measured; "unknown" where the source does not say."""

    paper: str
    table: str
    protocol: str
    title: str
    rows: tuple[PublishedRow, ...]


class PublishedTables(Config):
    """Every table, and for every paper its full title or address."""

    papers: dict[str, str]
    tables: tuple[PublishedTable, ...]

    @model_validator(mode="after")
    def _known(self) -> "PublishedTables":
        unknown = {table.paper for table in self.tables} - self.papers.keys()
        if unknown:
            raise ValueError(f"no title for the papers {sorted(unknown)}")
        return self


@dataclass(frozen=True)
class PublishedValue:
    """A printed number and its place. It is no float, so that it cannot slip into a measured column."""

    value: float
    metric: str
    paper: str
    table: str
    protocol: str
    row: PublishedRow
    title: str

    @property
    def source(self) -> str:
        """As in "FPD, table 1"; documents without numbered tables keep their name."""
        return f"{self.paper}, {'table ' if self.table[0].isdigit() else ''}{self.table}"


@cache
def published_tables() -> PublishedTables:
    """The tables of the package."""
    return PublishedTables.model_validate_json((files(__name__) / "tables.json").read_bytes())


def published(metric: str, system: str, *, steps: int | None = None) -> tuple[PublishedValue, ...]:
    """Every printed value of one metric for one system, in the order of the tables; none is an empty tuple.

    Args:
        metric: a name of `PublishedRow.values`, as in `fid`, `geneval_overall`, `hps_v2.0_anime`.
        system: the method's name; case and punctuation do not count, so `DiMO` is `Di[M]O`.
        steps: only rows of this many network evaluations.
    """
    return tuple(
        PublishedValue(
            row.values[metric], metric, table.paper, table.table, row.protocol or table.protocol, row, table.title
        )
        for table in published_tables().tables
        for row in table.rows
        if metric in row.values and _letters(row.method) == _letters(system) and steps in (None, row.steps)
    )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
