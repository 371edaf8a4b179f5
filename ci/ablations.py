"""The paper's tables in small, and what it leaves open: short runs that differ in one thing, over several seeds.

    python ci/ablations.py --table table3 --world fashion --seeds 0 --seeds 1 --seeds 2 --jobs 2
    python ci/ablations.py --table recipe --list

Rows stand in `ablations.json`. A run that is done is not done again, one that was interrupted continues, one that fails
is marked with its reason and ends no other. Tables, plots and `results.json` go to runs/ablations/WORLD/.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
    Failed,
    Processes,
    Run,
    measure,
    perform,
    read_declared,
    recall,
    resolve,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False)
Teachers = dict[int, dict[str, float]]


def planned(
    declared: Declared, world: str, table: str, seeds: Sequence[int], steps: int | None, out: Path
) -> list[Run]:
    """Every row at every seed, seed by seed: an early end leaves whole tables of fewer seeds."""
    start, rows = declared.worlds[world], declared.tables[table].rows
    return [
        resolve(name, seed, declared.overrides(overrides, world), start, steps, out)
        for seed in seeds
        for name, overrides in rows.items()
    ]


def show_plan(runs: Sequence[Run], declared: Declared, world: str, jobs: int) -> None:
    """The runs and what those that are not done cost; two rows may be one run."""
    start, done = declared.worlds[world], [run.seconds for run in runs if run.values is not None]
    left: dict[Path, float] = {}
    for run in runs:
        state = "done" if run.values is not None else f"cannot run: {run.reason}" if run.config is None else "to do"
        if state == "to do" and run.config is not None:
            guess = run.config.steps * start.seconds_per_step + start.seconds_to_measure
            left[run.folder] = median(done) if done else guess
        console.print(f"{run.name}: {state}  [dim]{run.folder}[/]", soft_wrap=True)
    hours, source = sum(left.values()) / jobs / 3600, "as the finished ones took" if done else "a guess for a free core"
    console.print(f"{len(left)} runs to do, about {hours:.1f} hours with {jobs} at a time ({source})")


def work(runs: Sequence[Run], jobs: int, one: Callable[[Run], None], processes: Processes) -> None:
    """`one` of every run, `jobs` at a time, each folder once; failures become reasons."""
    waiting = {run.folder: run for run in runs if run.values is None and run.config is not None}
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(waiting))
        with ThreadPoolExecutor(jobs) as pool:
            asked = {pool.submit(one, run): run for run in waiting.values()}
            try:
                for future in as_completed(asked):
                    run = asked[future]
                    try:
                        future.result()
                        console.print(f"{run.name}: done in {run.seconds / 60:.1f} min")
                    except (Failed, OSError, ValueError, KeyError) as error:
                        run.reason = str(error)
                        console.print(f"{run.name}: [red]failed[/]: {error}", soft_wrap=True)
                    progress.advance(task)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                processes.stop()
                raise
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
    plans = {
        name: planned(declared, world, name, list(dict.fromkeys(seeds)), steps, place / "runs")
        for name in table or TABLES
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
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues")
        sys.exit(130)
    for name, runs in plans.items():
        found, lack = teachers(declared, world, name, settings, place, processes)
        if lack:
            console.print(f"[red]{lack}[/]", soft_wrap=True)
        console.print(write_report(declared, world, name, runs, found, settings, place), markup=False)


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
