"""Which samples a run wants, by what img2dataset's json or parquet says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from fpd_core.config import Config, Name, Number
from fpd_core.untrusted import UntrustedError, parse_object

CAPTION_LENGTH = "caption_length"


class Filter(Config):
    """Keeps samples whose value lies between two bounds; without a value a sample is not wanted."""

    column: Name = Field(
        description="Of the parquet or a key of the json: `width`, `aesthetic`, `pwatermark`; "
        "or `caption_length`, in characters."
    )
    min: Number | None = Field(None, ge=-1e12, le=1e12, description="The least value that is kept.")
    max: Number | None = Field(None, ge=-1e12, le=1e12, description="The greatest value that is kept.")

    @model_validator(mode="after")
    def _bounded(self) -> "Filter":
        if self.min is None and self.max is None:
            raise ValueError(f"the filter of {self.column} has neither min nor max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the filter of {self.column} has min {self.min:g} above max {self.max:g}")
        return self

    def keeps(self, record: Mapping[str, Any]) -> bool:
        if self.column == CAPTION_LENGTH:
            caption = record.get("caption")
            value: Any = len(caption.strip()) if isinstance(caption, str) else None
        else:
            value = record.get(self.column)
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


def columns(filters: Sequence[Filter]) -> list[str]:
    """The columns of a parquet that the filters look at."""
    return sorted({"caption" if one.column == CAPTION_LENGTH else one.column for one in filters})


def wanted(filters: Sequence[Filter], record: Mapping[str, Any] | None) -> bool:
    """Whether every filter keeps a sample with this record; None: there is no record."""
    return not filters or (record is not None and all(one.keeps(record) for one in filters))


def json_record(content: bytes) -> Mapping[str, Any] | None:
    """The record in a sample's json; None where it is damaged."""
    try:
        return parse_object(content, source="json")
    except UntrustedError:
        return None
