"""`fpd-train reproduce table2`."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from rich.console import Console

Part = Literal["search", "training", "tables", "plot"]


def reproduce_command(
    table: Annotated[Literal["table2"], typer.Argument(help="What to reproduce.")],
    declared: Annotated[Path, typer.Option(help="Rows, search and orderings.")] = Path("configs/reproduce/table2.json"),
    updates: Annotated[int, typer.Option(min=1, help="Of every row; the other budget is the seconds FPD needs.")] = 80,
    search_updates: Annotated[int, typer.Option(min=1, help="Of every run of the learning-rate search.")] = 20,
    seeds: Annotated[list[int], typer.Option(help="Training seeds; repeat for several.")] = [0, 1, 2],  # noqa: B006
    num_images: Annotated[int, typer.Option(min=10, help="Measured per seed.")] = 1000,
    search_images: Annotated[int, typer.Option(min=10, help="Measured per run of the search.")] = 300,
    plot_steps: Annotated[list[int], typer.Option(help="Steps of the plot; repeat for several.")] = [1, 2, 4, 8],  # noqa: B006
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 1,
    device: Annotated[str, typer.Option(help="Of training and drawing; times are compared on it.")] = "cpu",
    only: Annotated[list[str], typer.Option(help="These rows and the first one; repeat for several.")] = [],  # noqa: B006
    until: Annotated[Part, typer.Option(help="Last part to do.")] = "plot",
    out: Annotated[Path, typer.Option(help="Runs, cache, tables, plot.")] = Path("runs/reproduce/table2"),
) -> None:
    """Every method on the bundled teacher with equal time and with equal updates, over several training seeds.

    First a search of the learning rate, the same for every row; then the rows; then `fpd-eval compare` over all
    students. What is done is not done again: the same command continues, and a table can be written from what is there.
    """
    from fpd_train.reproduce.declared import read_table
    from fpd_train.reproduce.processes import Processes
    from fpd_train.reproduce.reproduction import Plan, reproduce
    from fpd_train.reproduce.side_by_side import side_by_side

    console = Console(highlight=False)
    processes = Processes()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    plan = Plan(
        table=read_table(declared).only(only),
        updates=updates,
        search_updates=search_updates,
        seeds=tuple(dict.fromkeys(seeds)),
        num_images=num_images,
        search_images=search_images,
        plot_steps=tuple(plot_steps),
        out=out,
        jobs=jobs,
        device=device,
    )
    try:
        reproduce(
            plan,
            lambda chains: side_by_side(chains, lambda chain: chain.perform(processes), jobs, processes, console),
            processes,
            console,
            until,
        )
    except KeyboardInterrupt:
        processes.stop()
        console.print("interrupted; the same command continues")
        sys.exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
