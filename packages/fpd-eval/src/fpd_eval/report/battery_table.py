"""What a battery adds to a report: a line per system and encoder, who was held out, and what real images score."""

from collections.abc import Sequence

from fpd_eval.bench.battery import held_out, over_encoders
from fpd_eval.bench.rows import Results, Row
from fpd_eval.report.cells import ABSENT, ARROWS, Cells, TableColumn
from fpd_eval.report.columns import BATTERY_COLUMNS

HELD_OUT = "fdr_held_out"


def with_held_out(rows: Sequence[Row], battery: Sequence[str]) -> list[Row]:
    """The rows with their mean FD ratio over the encoders that no training among them is known to have seen, if any.

    One set of encoders for all rows: means over different encoders could not be compared.
    """
    judges = held_out(battery, [row.encoders for row in rows])
    if not judges:
        return list(rows)
    return [
        row.model_copy(
            update={
                "values": {**row.values, HELD_OUT: over_encoders(row.values, "fdr", judges)},
                "seeds": tuple({**one, HELD_OUT: over_encoders(one, "fdr", judges)} for one in row.seeds),
            }
        )
        for row in rows
    ]


def battery_cells(results: Results, *, short: bool = False) -> Cells | None:
    """Every encoder's own distances, one line per system and encoder; None where the protocol has no battery."""
    if results.protocol is None or not results.protocol.battery:
        return None
    lines = [(row, encoder) for row in results.rows for encoder in results.protocol.battery]
    shown = {
        name: column
        for name, column in BATTERY_COLUMNS.items()
        if any(f"{name}/{encoder}" in row.values for row, encoder in lines) and not (short and column.short is None)
    }
    plain = {
        "System": [row.label for row, _ in lines],
        "Steps": [ABSENT if row.is_real else str(row.steps) for row, _ in lines],
        "Encoder": [encoder for _, encoder in lines],
        "In its loss": [_in_its_loss(row, encoder) for row, encoder in lines],
    }
    columns = [TableColumn(title, texts, [False] * len(lines)) for title, texts in plain.items()]
    for name, column in shown.items():
        title = (column.short if short and column.short else column.title + " {}").format(ARROWS[column.better])
        texts = [
            column.text(value) if (value := _of(row, name, encoder)) is not None else ABSENT for row, encoder in lines
        ]
        columns.append(TableColumn(title, texts, [False] * len(lines)))
    return Cells([row.name for row, _ in lines], [row.role for row, _ in lines], columns)


def _of(row: Row, name: str, encoder: str) -> float | None:
    return row.values.get(f"{name}/{encoder}")


def _in_its_loss(row: Row, encoder: str) -> str:
    if row.is_real:
        return ABSENT
    return "unknown" if row.encoders is None else "no" if held_out([encoder], [row.encoders]) else "yes"


def battery_notes(results: Results) -> list[str]:
    """Which encoders are held out, and that real images score 1 within their error."""
    if results.protocol is None or not results.protocol.battery:
        return []
    judges = held_out(results.protocol.battery, [row.encoders for row in results.rows])
    real = next((row for row in results.rows if row.is_real), None)
    said = [f"Held out: {', '.join(judges)}, which no training in this table is known to have seen."] if judges else []
    if real is not None:
        count = len(real.seeds)
        said.append(
            f"Real images, second half: mean ± standard deviation over {count} splits that had no part in the unit. "
            f"Mean and unit are each known to ± / √{count}; within that a ratio of 1 is as good as real images can be "
            "told from each other."
        )
    return said
