"""The result table in its forms: cells, terminal, Markdown, CSV."""

import csv
import html
import io
import re
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fpd_eval.measures import COLUMNS, Column
from fpd_eval.results import Results

ARROWS = {"lower": "↓", "higher": "↑"}
TERMINAL_STYLES = {"teacher": "blue", "untrained": "dim", "student": "bold red"}


@dataclass(frozen=True)
class Cells:
    """The table as text: one list per row; `best[i][j]` marks the best value of a metric."""

    header: list[str]
    rows: list[list[str]]
    best: list[list[bool]]


def cells(results: Results, *, short: bool = False) -> Cells:
    """System, steps, network evaluations, every known metric, milliseconds per image.

    Args:
        short: titles for 80 columns, and only the metrics that have one.
    """
    known = [name for name in COLUMNS if all(name in row.values for row in results.rows)]
    shown = [name for name in known if COLUMNS[name].short] if short else known
    best = {name: _best([row.values[name] for row in results.rows], COLUMNS[name].better) for name in shown}
    titles = [_title(COLUMNS[name], short) for name in shown]
    return Cells(
        header=[
            *("System", "Steps", "Net.\nevals" if short else "Network evaluations"),
            *titles,
            "ms per\nimage" if short else "ms/image",
        ],
        rows=[
            [
                *(row.name, str(row.steps), str(row.network_evaluations)),
                *(COLUMNS[name].text(row.values[name]) for name in shown),
                f"{row.ms_per_image:.2f}",
            ]
            for row in results.rows
        ],
        best=[
            [False, False, False, *(row.values[name] == best[name] for name in shown), False] for row in results.rows
        ],
    )


def _title(column: Column, short: bool) -> str:
    template = column.short if short and column.short else column.title + " {}"
    return template.format(ARROWS[column.better])


def _best(values: list[float], better: str) -> float:
    return min(values) if better == "lower" else max(values)


def terminal_table(results: Results) -> Table:
    """For a rich console of 80 columns; names are shown literally."""
    content = cells(results, short=True)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for number, title in enumerate(content.header):
        if number == 0:
            table.add_column(Text(title), overflow="fold")
        else:
            table.add_column(Text(title), justify="right", no_wrap=True)
    for row, marks, texts in zip(results.rows, content.best, content.rows, strict=True):
        first, *others = texts
        numbers = [Text(text, style="bold" if mark else "") for text, mark in zip(others, marks[1:], strict=True)]
        table.add_row(Text(first, style=TERMINAL_STYLES[row.role]), *numbers)
    return table


def markdown_table(results: Results) -> str:
    """GitHub Markdown; the best value of a column is bold, names are escaped."""
    content = cells(results)
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
    """Every number in full precision, with the protocol it belongs to."""
    records = results.table()
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()
