"""Search, training at both budgets, tables, plot: each part from what the one before left."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from fpd_core.atomic import write_text
from fpd_train.reproduce import search
from fpd_train.reproduce.chain import Chain, Taken
from fpd_train.reproduce.declared import Table
from fpd_train.reproduce.measuring import Measuring, student_systems, teacher_systems
from fpd_train.reproduce.processes import Processes
from fpd_train.reproduce.report import cost, write_steps_plot, write_table

Work = Callable[[Sequence[Chain]], None]


@dataclass(frozen=True)
class Plan:
    """What is asked of a table, and where it goes."""

    table: Table
    updates: int
    search_updates: int
    seeds: tuple[int, ...]
    num_images: int
    search_images: int
    plot_steps: tuple[int, ...]
    out: Path
    jobs: int = 1
    device: str = "cpu"

    @property
    def first(self) -> str:
        """The row that sets the budget."""
        return next(iter(self.table.rows))


def reproduce(plan: Plan, work: Work, processes: Processes, console: Console, until: str = "plot") -> None:
    """All parts up to `until`.

    Raises:
        Failed: a measurement ended badly, or the first row did.
        ConfigError: a config of a row is wrong.
    """
    runs = plan.out / "runs"
    searched = search.candidates(plan.table, plan.search_updates, runs, plan.device)
    work(searched)
    found = search.best(searched, plan.table, Measuring(plan.out, plan.search_images, processes, plan.jobs))
    write_text(plan.out / "search.json", json.dumps(found, indent=2) + "\n")
    console.print({name: one["factor"] for name, one in found.items()})
    if until == "search":
        return
    if plan.first not in found:
        raise ValueError(f"{plan.first} sets the budget of all rows, and none of its runs ended: see {runs}")
    rates = {name: one["factor"] for name, one in found.items()}
    updated = _chains(plan, rates, runs, updates=plan.updates)
    work(updated)
    known = _fastest_of([*searched, *updated])
    seconds = plan.updates * sum(taken.seconds_per_update for taken in known[plan.first])
    in_time = _chains(plan, rates, runs, seconds=seconds, known=known)
    work(in_time)
    known = _fastest_of([*searched, *updated, *in_time])
    if until == "training":
        return
    budgets = {
        "equal time": (
            f"Every row trains for {seconds:.0f} s of one process on {plan.device}, pairs included",
            in_time,
        ),
        "equal updates": (f"Every row makes {plan.updates} updates", updated),
    }
    measuring = Measuring(plan.out, plan.num_images, processes, plan.jobs)
    teachers = teacher_systems(plan.table.teacher, plan.table.teacher_steps, plan.table.samplers)
    pairs = [(one.better, one.worse) for one in plan.table.orderings]
    for budget, (sentence, chains) in budgets.items():
        students = _students(chains)
        asked = [pair for pair in pairs if all(name in students for name in pair)]
        results = measuring.compare([*teachers, *student_systems(students)], budget.replace(" ", "-"), asked)
        said = (
            f"{sentence}. Seeds {', '.join(map(str, plan.seeds))}, ± their standard deviation; {plan.num_images} "
            f"images per seed. The learning rate is the best of {len(plan.table.rate_factors)} after "
            f"{plan.search_updates} updates of seed {search.SEED}."
        )
        lacks = [f"{chain.name}: {chain.reason}" for chain in chains if chain.reason]
        text = write_table(plan.table, budget, said, results, _costs(chains, known), lacks, plan.out)
        console.print(text, markup=False, soft_wrap=True)
        _record(plan, budget, results)
        if budget == "equal time" and until == "plot":
            _plot(plan, measuring, students, results)


def fastest(chains: Sequence[Chain]) -> list[Taken]:
    """By stage, the least that runs of one row took: a machine with other work on it makes some of them slow."""
    return [
        stages[0].model_copy(
            update={
                "seconds_per_update": min(taken.seconds_per_update for taken in stages),
                "pairs_seconds": min(taken.pairs_seconds for taken in stages),
            }
        )
        for stages in zip(*(chain.taken for chain in chains), strict=True)
    ]


def _fastest_of(chains: Sequence[Chain]) -> dict[str, list[Taken]]:
    """Of every row, by its name."""
    by_row: dict[str, list[Chain]] = {}
    for chain in chains:
        if not chain.reason:
            by_row.setdefault(chain.row_name, []).append(chain)
    return {name: fastest(found) for name, found in by_row.items()}


def _chains(
    plan: Plan,
    rates: Mapping[str, float],
    runs: Path,
    *,
    updates: int | None = None,
    seconds: float | None = None,
    known: Mapping[str, Sequence[Taken]] = MappingProxyType({}),
) -> list[Chain]:
    """Every row at every seed, with one of the budgets; rows whose search failed are left out."""
    return [
        Chain(name, plan.table.rows[name], seed, rate, runs, plan.device, updates, seconds, known.get(name, ()))
        for seed in plan.seeds
        for name, rate in rates.items()
    ]


def _students(chains: Sequence[Chain]) -> dict[str, list[Path]]:
    """Folders by the table's row, a seed after the other."""
    found: dict[str, list[Path]] = {}
    for chain in chains:
        for name, folder in {} if chain.reason else chain.students().items():
            found.setdefault(name, []).append(folder)
    return found


def _costs(chains: Sequence[Chain], known: Mapping[str, Sequence[Taken]]) -> dict[str, Any]:
    by_row: dict[str, list[Chain]] = {}
    for chain in chains:
        for added in () if chain.reason else chain.row.students.values():
            by_row.setdefault(f"{chain.row_name}{added}", []).append(chain)
    return {name: cost(found, known[found[0].row_name]) for name, found in by_row.items()}


def _record(plan: Plan, budget: str, results: Mapping[str, Any]) -> None:
    rows = [{key: row[key] for key in ("name", "steps", "values", "seeds")} for row in results["rows"]]
    record = {"rows": rows, "reference": results["reference"]["values"], "verdicts": results["verdicts"]}
    write_text(plan.out / f"{budget}.json", json.dumps(record, indent=2) + "\n")


def _plot(plan: Plan, measuring: Measuring, students: Mapping[str, Sequence[Path]], results: Mapping[str, Any]) -> None:
    """Every student at several steps, and the teacher's rows of the table."""
    curves: dict[str, dict[int, list[float]]] = {}
    metric = plan.table.judged_by[0]
    for row in results["rows"]:
        if row["name"].startswith("teacher"):
            curves.setdefault(row["name"], {})[row["steps"]] = [row["values"][metric]]
    for steps in plan.plot_steps:
        for row in measuring.compare(student_systems(students, steps), f"in-{steps}-steps")["rows"]:
            seeds = row["seeds"] or [row["values"]]
            curves.setdefault(row["name"], {})[row["steps"]] = [one[metric] for one in seeds]
    write_steps_plot(curves, metric, plan.out / "steps.png")
