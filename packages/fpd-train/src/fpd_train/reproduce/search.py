"""The learning rate of every row, found with the same small budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fpd_train.reproduce.chain import Chain
from fpd_train.reproduce.declared import Table
from fpd_train.reproduce.measuring import Measuring, student_systems

SEED = 1000  # of the search alone


def candidates(table: Table, updates: int, out: Path, device: str) -> list[Chain]:
    """Every row at every rate, for few updates."""
    return [
        Chain(name, row, SEED, factor, out, device, updates=updates)
        for name, row in table.rows.items()
        for factor in table.rate_factors
    ]


def best(chains: Sequence[Chain], table: Table, measuring: Measuring) -> dict[str, Any]:
    """By row: the chosen factor and, by factor, the judging metrics.

    Raises:
        Failed: the comparison ended badly.
    """
    students = {f"{chain.row_name} x{chain.rate_factor:g}": _last(chain) for chain in chains if not chain.reason}
    rows = measuring.compare(student_systems({name: [one] for name, one in students.items()}), "search")["rows"]
    values: Mapping[str, Mapping[str, float]] = {row["name"]: row["values"] for row in rows}
    found: dict[str, Any] = {}
    for name in table.rows:
        of_row = {
            factor: {metric: values[key][metric] for metric in table.judged_by}
            for factor in table.rate_factors
            if (key := f"{name} x{factor:g}") in values
        }
        if of_row:
            chosen = min(of_row, key=lambda factor: _product(of_row[factor]))
            found[name] = {"factor": chosen, "values": {f"{factor:g}": one for factor, one in of_row.items()}}
    return found


def _last(chain: Chain) -> Path:
    return chain.folders[-1] / list(chain.row.students)[-1]


def _product(values: Mapping[str, float]) -> float:
    """Of the distances: no space outweighs another."""
    total = 1.0
    for value in values.values():
        total *= max(value, 0.0)
    return total
