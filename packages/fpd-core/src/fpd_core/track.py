"""Progress of long passes: silent by default, bars on a terminal, elsewhere a line every half minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]
Track = Callable[[str, int], AbstractContextManager[Advance]]
LINE_SECONDS = 30.0


@contextmanager
def silent(title: str, total: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda count: None


def bars(console: "Console") -> Track:
    """One bar per pass on `console`, removed when done; `lines` where it is not a terminal."""
    if not console.is_terminal:
        return lines(console)

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


def lines(console: "Console", *, clock: Callable[[], float] = time.monotonic) -> Track:
    """A line per pass and half minute, with the share done and the time left; none of a pass that is sooner done."""

    @contextmanager
    def track(title: str, total: int) -> Iterator[Advance]:
        began = said = clock()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            now = clock()
            if now - said >= LINE_SECONDS and done < total:
                said = now
                left = (now - began) * (total - done) / done if done else None
                wait = "" if left is None else f", {_words(left)} left"
                console.print(f"{title}: {done} of {total}{wait}", markup=False, highlight=False, soft_wrap=True)

        yield advance

    return track


def _words(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
