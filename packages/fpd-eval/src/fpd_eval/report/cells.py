"""The result tables as text, by columns. Published values have columns of their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from fpd_eval.bench.rows import GenEvalRow, Printed, Results, Row, SeededRow
from fpd_eval.report.columns import COLUMNS, GENEVAL_COLUMNS, Column, shortfall

ARROWS = {"lower": "↓", "higher": "↑", "as_real": "→"}
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
ABSENT = "–"
JUDGES = (("Detector", "detector"), ("Colour judge", "colors"))


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
    has_judges = any(row.own_judge or row.is_real for row in rows)
    return Cells(
        names=[row.name for row in rows],
        roles=[row.role for row in rows],
        columns=[
            plain("System", rows, lambda row: row.label),
            plain("Steps", rows, lambda row: ABSENT if row.is_real else str(row.steps)),
            plain("Net.\nevals" if short else "Network evaluations", rows, _evaluations),
            *_metrics(results, rows, COLUMNS, short),
            *([plain("Saw" if short else "Training saw", rows, lambda row: row.saw)] if has_judges else []),
            *(
                [
                    plain(
                        "ms per\nimage" if short else "ms/image",
                        rows,
                        lambda row: ABSENT if (ms := row.ms_per_image) is None else f"{ms:.2f}",
                    )
                ]
                if has_times
                else []
            ),
        ],
    )


def geneval_cells(results: Results, *, short: bool = False) -> Cells:
    """System, steps, the six tasks and overall, with what papers print, and who judged."""
    rows = results.geneval
    return Cells(
        names=[row.name for row in rows],
        roles=[""] * len(rows),
        columns=[
            plain(
                "GenEval" if rows[0].suite == "geneval" else f"GenEval ({rows[0].suite})",
                rows,
                lambda row: row.label if row.complete else f"{row.label} (partial)",
            ),
            plain("Steps", rows, lambda row: ABSENT if row.steps is None else str(row.steps)),
            *_metrics(results, rows, GENEVAL_COLUMNS, short),
            *([] if short else [plain(title, rows, attrgetter(name)) for title, name in JUDGES]),
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
        if name in row.published and name in row.values
    ]
    if not found:
        return None
    return Cells(
        names=[row.name for row, _, _ in found],
        roles=[""] * len(found),
        columns=[
            plain("System", found, lambda one: one[0].name),
            plain("Steps", found, lambda one: ABSENT if one[0].steps is None else str(one[0].steps)),
            plain("Metric", found, lambda one: one[1].title),
            plain("measured", found, lambda one: one[1].text(one[0].values[one[2]])),
            plain("published", found, lambda one: _printed(one[0].published[one[2]], numbers)),
        ],
    )


def _evaluations(row: Row) -> str:
    return ABSENT if row.is_real else str(row.network_evaluations)


def plain(title: str, rows: Sequence[Any], text: Callable[[Any], str]) -> TableColumn:
    """A column in which nothing is best."""
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
        real = None if results.reference is None else results.reference.values.get(name)
        lacking = [
            shortfall(row.values[name], column.better, real) if row.complete and name in row.values else None
            for row in rows
        ]
        least = min((one for one in lacking if one is not None), default=None)
        texts = [_measured(row, name, column, short) if name in row.values else ABSENT for row in rows]
        found.append(TableColumn(_title(column, short, real), texts, [one == least is not None for one in lacking]))
        if not short and any(name in row.published for row in rows):
            printed = [_printed(row.published.get(name, ()), numbers) for row in rows]
            found.append(TableColumn("published", printed, [False] * len(rows), is_published=True))
    return found


def _measured(row: SeededRow, name: str, column: Column, short: bool) -> str:
    text, sd = column.text(row.values[name]), row.sd(name)
    return text if sd is None else text + ("\n±" if short else " ± ") + column.text(sd)


def _title(column: Column, short: bool, real: float | None) -> str:
    """With an arrow: down, up, or to the real images' value."""
    template = column.short if short and column.short else column.title + " {}"
    aim = f" {ABSENT if real is None else column.text(real)}" if column.better == "as_real" else ""
    return template.format(ARROWS[column.better] + aim)


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
