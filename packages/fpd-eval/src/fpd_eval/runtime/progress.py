"""Progress of long passes: silent by default, bars with remaining time on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console

Advance = Callable[[int], None]
Track = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def silent(title: str, total: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda count: None


def bars(console: Console) -> Track:
    """One bar per pass on `console`, removed when done; nothing where it is not a terminal."""
    if not console.is_terminal:
        return silent

    @contextmanager
    def track(title: str, total: int) -> Iterator[Advance]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda count: progress.advance(task, count)

    return track
