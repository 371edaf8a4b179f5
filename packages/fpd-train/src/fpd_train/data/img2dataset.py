"""The files that img2dataset leaves beside a shard: `00000_stats.json` with its count, `00000.parquet` with its rows.

Rows whose status is `success` are in the tar, in the same order.
"""

import io
from collections.abc import Sequence
from typing import Any

from fpd_core.untrusted import UntrustedError, parse_object, shown
from fpd_core.untrusted.limits import ARCHIVE_BYTES, JSON_BYTES
from fpd_train.data.storage import content_of
from fpd_train.errors import DataError

Row = dict[str, Any]


def beside(url: str, ending: str) -> str:
    """`a/00000.parquet` of the shard `a/00000.tar` and the ending `.parquet`."""
    return url.removesuffix(".tar") + ending


def successes(url: str) -> int | None:
    """Samples of a shard by its `_stats.json`; None where that is absent or says nothing."""
    content = content_of(beside(url, "_stats.json"), JSON_BYTES, name="JSON_BYTES")
    if content is None:
        return None
    try:
        found = parse_object(content, source="stats").get("successes")
    except UntrustedError:
        return None
    return found if type(found) is int and found >= 0 else None


def rows(url: str, names: Sequence[str]) -> list[Row] | None:
    """`key` and the named columns of a shard's successful rows.

    None where the parquet is absent, lacks a column, or cannot be read because pyarrow is not installed.

    Raises:
        DataError: it is damaged.
    """
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        return None
    path = beside(url, ".parquet")
    content = content_of(path, ARCHIVE_BYTES, name="ARCHIVE_BYTES")
    if content is None:
        return None
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        present = set(file.schema_arrow.names)
        if not {"key", *names} <= present:
            return None
        table = file.read(columns=sorted({"key", *names} | ({"status"} & present)))
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{shown(path)} cannot be read: {shown(error)}") from None
    found: list[Row] = table.to_pylist()
    return [row for row in found if row.get("status", "success") == "success"]
