"""Captions in a column of a CSV or parquet file, as WebDataset samples."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from fpd_core.untrusted import open_regular, shown
from fpd_core.untrusted.limits import CAPTION_BYTES
from fpd_train.errors import DataError


def table_captions(path: Path, column: str) -> Iterator[dict[str, object]]:
    """One sample a row; rows without a caption are left out, line breaks within one become spaces.

    Raises:
        DataError: the file or the column is absent, it is damaged, a caption is too long, or there is none.
    """
    rows = _parquet(path, column) if path.suffix.lower() == ".parquet" else _csv(path, column)
    index = 0
    for row, text in enumerate(rows, start=1):
        caption = " ".join(text.split()) if isinstance(text, str) else ""
        if len(caption.encode()) > CAPTION_BYTES:
            raise DataError(f"captions {path}: row {row} has more than {CAPTION_BYTES} bytes (CAPTION_BYTES)")
        if caption:
            yield {"__key__": f"{index:08d}", "txt": caption.encode()}
            index += 1
    if not index:
        raise DataError(f"captions {path}: no row holds a caption in {column!r}")


def _csv(path: Path, column: str) -> Iterator[object]:
    with io.TextIOWrapper(open_regular(path, error=DataError), encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            _require(column, list(reader.fieldnames or []), path)
            yield from (row[column] for row in reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"captions {path}: {shown(error)}") from None


def _parquet(path: Path, column: str) -> Iterator[object]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise DataError("parquet files need the package pyarrow: pip install 'fpd-train[parquet]'") from None
    with open_regular(path, error=DataError) as file:
        try:
            table = parquet.ParquetFile(file)
            _require(column, table.schema_arrow.names, path)
            for batch in table.iter_batches(columns=[column]):
                yield from batch.column(0).to_pylist()
        except (ArrowException, OSError) as error:
            raise DataError(f"captions {path}: {shown(error)}") from None


def _require(column: str, found: list[str], path: Path) -> None:
    if column not in found:
        raise DataError(f"captions {path}: no column {column!r}; there are {shown(', '.join(found))}")
