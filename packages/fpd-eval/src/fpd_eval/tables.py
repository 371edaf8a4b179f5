"""The result table in its forms: cells, terminal, Markdown, CSV."""

import csv
import html
import io
import re
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from fpd_eval.measures import COLUMNS
from fpd_eval.results import Results

ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}


@dataclass(frozen=True)
class Cells:
    """The table as text: one list per row, `best[i][j]` marks the best value of a column."""

    header: list[str]
    rows: list[list[str]]
    best: list[list[bool]]


def cells(results: Results) -> Cells:
    """System, steps, network evaluations, every known metric, milliseconds per image."""
    shown = [name for name in COLUMNS if all(name in row.values for row in results.rows)]
    titles = [COLUMNS[name].title + ARROWS[COLUMNS[name].better] for name in shown]
    best = {name: _best([row.values[name] for row in results.rows], COLUMNS[name].better) for name in shown}
    rows = [
        [
            row.name,
            str(row.steps),
            str(row.network_evaluations),
            *(COLUMNS[name].text(row.values[name]) for name in shown),
            f"{row.ms_per_image:.2f}",
        ]
        for row in results.rows
    ]
    marks = [[False, False, False, *(row.values[name] == best[name] for name in shown), False] for row in results.rows]
    return Cells(["System", "Steps", "Network evaluations", *titles, "ms/image ↓"], rows, marks)


def _best(values: list[float], better: str | None) -> float | None:
    return None if better is None else min(values) if better == "lower" else max(values)


def terminal_table(results: Results) -> Table:
    """For a rich console; names are shown literally."""
    content = cells(results)
    table = Table(caption=Text(results.protocol.sentence()), caption_justify="left", header_style="bold")
    for number, title in enumerate(content.header):
        table.add_column(Text(title), justify="left" if number == 0 else "right")
    for row, marks, texts in zip(results.rows, content.best, content.rows, strict=True):
        style = {"teacher": "blue", "untrained": "dim", "student": "bold red"}[row.role]
        first, *others = texts
        numbers = [Text(text, style="bold" if mark else "") for text, mark in zip(others, marks[1:], strict=True)]
        table.add_row(Text(first, style=style), *numbers)
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
