"""Several runs at a time, with a progress bar over them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fpd_train.reproduce.processes import Processes


class Job(Protocol):
    """What can be done or fail."""

    reason: str

    @property
    def name(self) -> str:
        """For the terminal."""
        ...


J = TypeVar("J", bound=Job)


def side_by_side(
    jobs: Sequence[J], one: Callable[[J], str], count: int, processes: Processes, console: Console
) -> None:
    """`one` of every job, `count` at a time; it says how it went. Failures become reasons and end nothing else."""
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(jobs))
        with ThreadPoolExecutor(count) as pool:
            asked = {pool.submit(one, job): job for job in jobs}
            try:
                for future in as_completed(asked):
                    job = asked[future]
                    try:
                        console.print(f"{job.name}: {future.result()}")
                    except (OSError, ValueError, KeyError) as error:
                        job.reason = str(error).splitlines()[0]
                        console.print(f"{job.name}: [red]failed[/]: {error}", soft_wrap=True)
                    progress.advance(task)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                processes.stop()
                raise
