"""The result tables in their forms: terminal, Markdown, CSV."""

import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fpd_core.untrusted import printable
from fpd_eval.bench.rows import Printed, Results, SeededRow
from fpd_eval.report.cells import Cells

STYLES = {"teacher": "blue", "untrained": "dim", "student": "bold red", "baseline": "magenta", "external": "green"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")


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
        table.add_row(Text(printable(first), style=STYLES.get(role, "")), *numbers)
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
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(printable(text.replace("\n", " ")), quote=False))


def csv_table(results: Results) -> str:
    """Every measured number in full precision with its protocol; published ones in fields of their own."""
    protocol = results.protocol
    return _csv(
        [
            {
                **row.model_dump(include={"name", "role", "steps", "network_evaluations"}),
                **row.values,
                **_seed_fields(row),
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
                **row.model_dump(
                    include={"name", "suite", "steps", "images", "prompts", "complete", "detector", "colors"}
                ),
                **row.values,
                **_seed_fields(row),
                **{f"{name}_error": error for name, error in row.errors.items()},
                "protocol": "geneval",
                **_published_fields(row.published),
            }
            for row in results.geneval
        ]
    )


def _seed_fields(row: SeededRow) -> dict[str, Any]:
    """How many training seeds, and the standard deviation over them; nothing where there is one."""
    return {"seeds": len(row.seeds), **{f"{name}_sd": row.sd(name) for name in row.values}} if row.seeds else {}


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
    writer.writerows({field: _inert(value) for field, value in record.items()} for record in records)
    return buffer.getvalue()


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
