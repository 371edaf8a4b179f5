"""The paper's tables in small, and what it leaves open: short runs that differ in one thing, over several seeds.

    python ci/ablations.py --table table3 --world fashion --seeds 0 --seeds 1 --seeds 2 --jobs 2
    python ci/ablations.py --table recipe --list
    python ci/ablations.py --table table1 --world scenes --ready recipe=runs/s0/student,runs/s1/student

Rows stand in `ablations.json`. A run that is done is not done again, one that was interrupted continues, one that fails
is marked with its reason and ends no other. Tables, plots and `results.json` go to runs/ablations/WORLD/.
"""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Annotated, Any

import typer
from ablation_report import write_report
from ablation_runs import (
    ROWS,
    TABLES,
    WORLDS,
    Declared,
    Run,
    finished,
    measure,
    perform,
    read_declared,
    recall,
    resolve,
)
from rich.console import Console

from fpd_train.reproduce.processes import Failed, Processes
from fpd_train.reproduce.side_by_side import side_by_side

console = Console(highlight=False)
Teachers = dict[int, dict[str, float]]


def planned(
    declared: Declared,
    world: str,
    table: str,
    seeds: Sequence[int],
    steps: int | None,
    out: Path,
    ready: Mapping[str, Sequence[Path]],
    device: str = "cpu",
) -> list[Run]:
    """Finished students, then every other row at every seed, seed by seed: an early end leaves whole tables of fewer
    seeds."""
    start, rows = declared.start(world, table), declared.tables[table].rows
    done = [
        finished(name, number, student, out)
        for name, students in ready.items()
        if name in rows
        for number, student in enumerate(students)
    ]
    return done + [
        resolve(name, seed, declared.overrides(overrides, world), start, steps, out, device)
        for seed in seeds
        for name, overrides in rows.items()
        if name not in ready
    ]


def ready_students(arguments: Sequence[str], known: set[str]) -> dict[str, list[Path]]:
    """`ROW=STUDENT,STUDENT` by row, one per training seed. Raises ValueError: no such form or row."""
    found = {}
    for argument in arguments:
        row, separator, students = argument.partition("=")
        if not separator or row not in known:
            raise ValueError(
                f"--ready is ROW=STUDENT,STUDENT with a row of the tables, one of {', '.join(sorted(known))}; "
                f"got {argument!r}"
            )
        found[row] = [Path(student) for student in students.split(",")]
    return found


def show_plan(runs: Sequence[Run], declared: Declared, world: str, jobs: int) -> None:
    """The runs and what those that are not done cost; two rows may be one run."""
    start = declared.worlds[world]
    done = [run.seconds for run in runs if run.values is not None and run.ready is None]
    left: dict[Path, float] = {}
    for run in runs:
        state = "done" if run.values is not None else "to do" if run.can_start else f"cannot run: {run.reason}"
        if state == "to do":
            training = 0 if run.config is None else run.config.steps * start.seconds_per_step
            left[run.folder] = median(done) if done and training else training + start.seconds_to_measure
        console.print(f"{run.name}: {state}  [dim]{run.folder}[/]", soft_wrap=True)
    hours, source = sum(left.values()) / jobs / 3600, "as the finished ones took" if done else "a guess for a free core"
    console.print(f"{len(left)} runs to do, about {hours:.1f} hours with {jobs} at a time ({source})")


def work(runs: Sequence[Run], jobs: int, one: Callable[[Run], str], processes: Processes) -> None:
    """`one` of every run, `jobs` at a time, each folder once; failures become reasons."""
    waiting = {run.folder: run for run in runs if run.values is None and run.can_start}
    side_by_side(list(waiting.values()), one, jobs, processes, console)
    for run in runs:  # rows of one configuration share a run
        twin = waiting.get(run.folder)
        if twin is not None and twin is not run:
            run.values, run.reference, run.reason, run.seconds = twin.values, twin.reference, twin.reason, twin.seconds


def teachers(
    declared: Declared, world: str, table: str, settings: dict[str, Any], out: Path, processes: Processes
) -> tuple[Teachers, str]:
    """Values of the teacher by steps, and why some lack."""
    start, found = declared.worlds[world], Teachers()
    for steps in start.teacher_steps.get(table, start.teacher_steps[""]):
        place = out / f"teacher-{steps}"
        run = Run(f"teacher, {steps} steps", 0, folder=place)
        section = {"kind": "teacher", "name": "teacher", "teacher": start.teacher, "steps": steps}
        try:
            found[steps] = measure(section, place, world, settings, processes, out / "cache")[0]
        except Failed as error:
            return found, f"{run.row}: {error}"
    return found, ""


def main(
    table: Annotated[list[str], typer.Option(help=f"{', '.join(TABLES)}; all by default.")] = [],  # noqa: B006
    world: Annotated[str, typer.Option(help=" or ".join(WORLDS))] = "fashion",
    seeds: Annotated[list[int], typer.Option(help="Training seeds; repeat for several.")] = [0, 1, 2],  # noqa: B006
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of every run; by default the config's.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 1,
    device: Annotated[str, typer.Option(help="Of the training; all runs of --jobs share it.")] = "cpu",
    ready: Annotated[
        list[str], typer.Option(metavar="ROW=DIR[,DIR...]", help="A row's finished students, only measured.")
    ] = [],  # noqa: B006
    num_images: Annotated[int, typer.Option(min=10, help="Images per run (fashion).")] = 5000,
    samples: Annotated[int, typer.Option(min=1, help="Images per prompt (scenes).")] = 4,
    out: Annotated[Path, typer.Option(help="Everything goes to a folder of the world in here.")] = Path(
        "runs/ablations"
    ),
    rows: Annotated[Path, typer.Option(help="The declared rows.")] = ROWS,
    only_list: Annotated[bool, typer.Option("--list", help="Show the runs and their cost, start nothing.")] = False,
) -> None:
    wrong = [*(set(table) - set(TABLES)), *({world} - set(WORLDS))]
    if wrong:
        raise ValueError(
            f"unknown table or world {wrong[0]!r}; tables: {', '.join(TABLES)}; worlds: {', '.join(WORLDS)}"
        )
    declared, place = read_declared(rows), out / world
    settings: dict[str, Any] = {"samples": samples} if world == "scenes" else {"num_images": num_images}
    names = table or TABLES
    students = ready_students(ready, {row for name in names for row in declared.tables[name].rows})
    plans = {
        name: planned(declared, world, name, list(dict.fromkeys(seeds)), steps, place / "runs", students, device)
        for name in names
    }
    every = [run for runs in plans.values() for run in runs]
    for run in every:
        recall(run, settings)
    show_plan(every, declared, world, jobs)
    if only_list:
        return
    processes = Processes()
    try:
        work(every, jobs, lambda run: perform(run, world, settings, processes, place / "cache"), processes)
        for name, runs in plans.items():
            found, lack = teachers(declared, world, name, settings, place, processes)
            if lack:
                console.print(f"[red]{lack}[/]", soft_wrap=True)
            text = write_report(declared, world, name, runs, found, settings, place)
            console.print(text, markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        processes.stop()
        console.print("interrupted; the same command continues")
        sys.exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(main)
        app(standalone_mode=False)
    except (ValueError, OSError) as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        sys.exit(2)
