"""The result tables in their forms: columns, terminal, Markdown, CSV. Published values have columns of their own."""

import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fpd_eval.measures import COLUMNS, GENEVAL_COLUMNS, Column
from fpd_eval.results import GenEvalRow, Printed, Results, Row

ARROWS = {"lower": "↓", "higher": "↑"}
STYLES = {"teacher": "blue", "untrained": "dim", "student": "bold red", "baseline": "magenta", "external": "green"}
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
ABSENT = "–"


@dataclass(frozen=True)
class TableColumn:
    """One title and one text per row; `best` marks the best measured values."""

    title: str
    texts: list[str]
    best: list[bool]
    is_published: bool = False


@dataclass(frozen=True)
class Cells:
    """A table as text, by columns; `names` and `roles` of its rows, a role being empty where none is known."""

    names: list[str]
    roles: list[str]
    columns: list[TableColumn]

    @property
    def header(self) -> list[str]:
        return [column.title for column in self.columns]

    @property
    def rows(self) -> list[list[str]]:
        return [list(texts) for texts in zip(*(column.texts for column in self.columns), strict=True)]

    @property
    def best(self) -> list[list[bool]]:
        return [list(marks) for marks in zip(*(column.best for column in self.columns), strict=True)]


def tables(results: Results, *, short: bool = False) -> list[Cells]:
    """What there is to show: the protocol's table, GenEval's, or both.

    Args:
        short: for 80 columns: only the metrics that have short titles, and no published columns.
    """
    shown = []
    if results.rows:
        shown.append(cells(results, short=short))
    if results.geneval:
        shown.append(geneval_cells(results, short=short))
    return shown


def cells(results: Results, *, short: bool = False) -> Cells:
    """System, steps, network evaluations, every known metric with what papers print, milliseconds per image."""
    rows = results.rows
    has_times = any(row.ms_per_image is not None for row in rows)
    return Cells(
        names=[row.name for row in rows],
        roles=[row.role for row in rows],
        columns=[
            _plain("System", rows, lambda row: row.name),
            _plain("Steps", rows, lambda row: str(row.steps)),
            _plain("Net.\nevals" if short else "Network evaluations", rows, lambda row: str(row.network_evaluations)),
            *_metrics(results, rows, COLUMNS, short),
            *([_plain("ms per\nimage" if short else "ms/image", rows, _time)] if has_times else []),
        ],
    )


def geneval_cells(results: Results, *, short: bool = False) -> Cells:
    """System, steps, the six tasks and overall, with what papers print."""
    rows = results.geneval
    return Cells(
        names=[row.name for row in rows],
        roles=[""] * len(rows),
        columns=[
            _plain("GenEval", rows, lambda row: row.name if row.complete else f"{row.name} (partial)"),
            _plain("Steps", rows, lambda row: ABSENT if row.steps is None else str(row.steps)),
            *_metrics(results, rows, GENEVAL_COLUMNS, short),
        ],
    )


def published_cells(results: Results) -> Cells | None:
    """Measured and published values one below the other, for terminals; None where no system has a published value."""
    numbers = {key: number for number, (key, _) in enumerate(_sources(results), start=1)}
    found = [
        (row, column, name)
        for rows, columns in ((results.rows, COLUMNS), (results.geneval, GENEVAL_COLUMNS))
        for row in rows
        for name, column in columns.items()
        if name in row.published
    ]
    if not found:
        return None
    return Cells(
        names=[row.name for row, _, _ in found],
        roles=[""] * len(found),
        columns=[
            _plain("System", found, lambda one: one[0].name),
            _plain("Steps", found, lambda one: ABSENT if one[0].steps is None else str(one[0].steps)),
            _plain("Metric", found, lambda one: one[1].title),
            _plain("measured", found, lambda one: one[1].text(one[0].values[one[2]])),
            _plain("published", found, lambda one: _printed(one[0].published[one[2]], numbers)),
        ],
    )


def _time(row: Row) -> str:
    return ABSENT if row.ms_per_image is None else f"{row.ms_per_image:.2f}"


def _plain(title: str, rows: Sequence[Any], text: Callable[[Any], str]) -> TableColumn:
    return TableColumn(title, [text(row) for row in rows], [False] * len(rows))


def _metrics(
    results: Results, rows: Sequence[Row] | Sequence[GenEvalRow], columns: Mapping[str, Column], short: bool
) -> list[TableColumn]:
    """Every metric that some row has, each followed by its published column if a row has one."""
    found = []
    numbers = {key: number for number, (key, _) in enumerate(_sources(results), start=1)}
    for name, column in columns.items():
        if not any(name in row.values for row in rows) or (short and not column.short):
            continue
        # Partial scores are no scores, and no rivals.
        rivals = [row.values[name] for row in rows if name in row.values and _complete(row)]
        best = (min if column.better == "lower" else max)(rivals, default=None)
        texts = [column.text(row.values[name]) if name in row.values else ABSENT for row in rows]
        marks = [_complete(row) and row.values.get(name, None) == best is not None for row in rows]
        found.append(TableColumn(_title(column, short), texts, marks))
        if not short and any(name in row.published for row in rows):
            printed = [_printed(row.published.get(name, ()), numbers) for row in rows]
            found.append(TableColumn("published", printed, [False] * len(rows), is_published=True))
    return found


def _complete(row: Row | GenEvalRow) -> bool:
    return not isinstance(row, GenEvalRow) or row.complete


def _title(column: Column, short: bool) -> str:
    template = column.short if short and column.short else column.title + " {}"
    return template.format(ARROWS[column.better])


def _printed(values: Sequence[Printed], numbers: Mapping[Any, int]) -> str:
    """Each printed value once, with the numbers of its footnotes: `6.6¹˒² 6.79³`."""
    found: dict[str, list[str]] = {}
    for value in values:
        # As printed: our number of decimals would claim a precision that the paper does not.
        found.setdefault(f"{value.value:g}", []).append(str(numbers[_key(value)]).translate(SUPERSCRIPTS))
    return " ".join(text + "˒".join(marks) for text, marks in found.items()) or ABSENT


def _key(value: Printed) -> tuple[str, ...]:
    return (value.source, value.protocol, value.difference, value.note)


def _sources(results: Results) -> list[tuple[tuple[str, ...], Printed]]:
    """Every place a published value stands in, once, in the order of the tables."""
    found: dict[tuple[str, ...], Printed] = {}
    for rows, columns in ((results.rows, COLUMNS), (results.geneval, GENEVAL_COLUMNS)):
        for name in columns:
            for row in rows:
                for value in row.published.get(name, ()):
                    found.setdefault(_key(value), value)
    return list(found.items())


def footnotes(results: Results) -> list[str]:
    """One sentence per numbered source of published values; it says where the protocols differ."""
    return [
        f"{str(number).translate(SUPERSCRIPTS)} {value.source} ({value.title}), "
        + (f"not comparable as it stands: {value.difference}." if value.difference else f"protocol {value.protocol}.")
        + (f" {value.note}" if value.note else "")
        for number, (_, value) in enumerate(_sources(results), start=1)
    ]


def terminal_table(content: Cells) -> Table:
    """For a rich console of 80 columns; names are shown literally."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for number, title in enumerate(content.header):
        if number == 0:
            table.add_column(Text(title), overflow="fold")
        else:
            table.add_column(Text(title), justify="right", no_wrap=True)
    for role, marks, texts in zip(content.roles, content.best, content.rows, strict=True):
        first, *others = texts
        numbers = [Text(text, style="bold" if mark else "") for text, mark in zip(others, marks[1:], strict=True)]
        table.add_row(Text(first, style=STYLES.get(role, "")), *numbers)
    return table


def markdown_table(content: Cells) -> str:
    """GitHub Markdown; the best value of a column is bold, names are escaped."""
    lines = [
        "| " + " | ".join(content.header) + " |",
        "|:---" + "|---:" * (len(content.header) - 1) + "|",
    ]
    for texts, marks in zip(content.rows, content.best, strict=True):
        first, *others = texts
        numbers = [f"**{text}**" if mark else text for text, mark in zip(others, marks[1:], strict=True)]
        lines.append("| " + " | ".join([markdown_text(first), *numbers]) + " |")
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """`text` so that Markdown, tables and HTML inside Markdown show it literally."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(text, quote=False)).replace("\n", " ")


def csv_table(results: Results) -> str:
    """Every measured number in full precision with its protocol; published ones in fields of their own."""
    protocol = results.protocol
    return _csv(
        [
            {
                **row.model_dump(exclude={"values", "samples", "settings", "ms_per_image", "published", "note"}),
                **row.values,
                "ms_per_image": row.ms_per_image,
                **(
                    {"protocol": protocol.name, "num_images": protocol.num_images, "seed": protocol.seed}
                    if protocol
                    else {}
                ),
                **_published_fields(row.published),
            }
            for row in results.rows
        ]
    )


def geneval_csv(results: Results) -> str:
    """GenEval's numbers in full precision with standard errors; published ones in fields of their own."""
    return _csv(
        [
            {
                **row.model_dump(include={"name", "steps", "images", "prompts", "complete"}),
                **row.values,
                **{f"{name}_error": error for name, error in row.errors.items()},
                "protocol": "geneval",
                **_published_fields(row.published),
            }
            for row in results.geneval
        ]
    )


def _published_fields(published: Mapping[str, Sequence[Printed]]) -> dict[str, str]:
    return {
        f"published_{name}{suffix}": "; ".join(text(value) for value in values)
        for name, values in published.items()
        for suffix, text in PUBLISHED_FIELDS.items()
    }


PUBLISHED_FIELDS: dict[str, Callable[[Printed], str]] = {
    "": lambda value: str(value.value),
    "_source": lambda value: value.source,
    "_protocol": lambda value: value.protocol,
    "_difference": lambda value: value.difference,
}


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    fields = dict.fromkeys(field for record in records for field in record)
    writer = csv.DictWriter(buffer, list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()
