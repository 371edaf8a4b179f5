"""What a run tells the world: a progress bar, `metrics.jsonl`, `timing.jsonl`, tensorboard, trackers, sample grids.

What the numbers of a step are depends on the run alone; where its time went stands apart, in `timing.jsonl`.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import save_image

from fpd_core import atomic
from fpd_core.track import LINE_SECONDS
from fpd_train.timing import TIMING
from fpd_train.trackers import Tracker

METRICS, SAMPLES = "metrics.jsonl", "samples"
# Shown beside the bar when a method reports them; everything is in the log.
SHOWN = {
    **{"loss": "loss", "rms": "Z_h", "alignment": "cos", "signal": "signal", "entropy": "entropy"},
    **{"mmd": "MMD²", "frechet": "FD", "accuracy": "acc", "codes": "codes"},
}
PROGRESS = "progress/"  # what is measured now and then under such names is shown until it is measured again
GRID_COLUMNS = 10


class RunLog:
    """Log of one run. On ranks other than 0 it does nothing.

    A file that cannot be written never interrupts the step in which it happens, because the other ranks would wait:
    `failure` keeps the error for the loop to act on. With `survive_full_disk` a full disk costs the line or picture.
    """

    def __init__(
        self,
        folder: Path,
        *,
        active: bool,
        start: int,
        steps: int,
        title: str,
        survive_full_disk: bool = False,
        trackers: Callable[[], Sequence[Tracker]] = list,
    ) -> None:
        self.failure: OSError | None = None
        self._active, self._folder, self._start = active, folder, start
        self._survive_full_disk = survive_full_disk
        self._console = Console(stderr=True)
        self._board: SummaryWriter | None = None
        self._progress_shown = ""
        self._said = time.monotonic()
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        forgotten = _forget_after(folder / METRICS, start)
        _forget_after(folder / TIMING, start)
        self._metrics, self._timing = (
            os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) for name in (METRICS, TIMING)
        )
        self._trackers = trackers()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self._progress = Progress(
            TextColumn(f"[bold]{title}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=steps, completed=start, numbers="")
        if forgotten:
            self.say(f"dropped {forgotten} unreadable line(s) of {folder / METRICS}")

    def __enter__(self) -> "RunLog":
        if self._active:
            threading.excepthook = _quiet_about_files
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._active:
            return
        self._progress.stop()
        os.close(self._metrics)
        os.close(self._timing)
        for tracker in self._trackers:
            tracker.close()
        if self._board is not None:
            self._writing(self._board.close)
        threading.excepthook = threading.__excepthook__

    def step(
        self,
        step: int,
        images_seen: int,
        numbers: Mapping[str, float],
        measured: Mapping[str, float] = MappingProxyType({}),
        *,
        write: bool,
    ) -> None:
        """Advance the bar; without a terminal say a line, every half minute at least.

        With `write`, append the numbers of this step, and those measured after it, to the logs.
        """
        if not self._active:
            return
        if progress := [f"{value:.3g}" for key, value in measured.items() if key.startswith(PROGRESS)]:
            self._progress_shown = f"  progress {' / '.join(progress)}"
        shown = "  ".join(f"{label} {numbers[key]:.4g}" for key, label in SHOWN.items() if key in numbers)
        shown += self._progress_shown
        numbers = {**numbers, **measured}
        rate = numbers["images_per_second"]
        self._progress.update(self._task, completed=step, numbers=f"{shown}  {rate:.0f} img/s")
        now = time.monotonic()
        if not self._console.is_terminal and (write or now - self._said >= LINE_SECONDS):
            self._said = now
            self._console.print(f"step {step}  {shown}  {rate:.0f} img/s", highlight=False, soft_wrap=True)
        if not write:
            return
        self._record(self._metrics, {"step": step, "images_seen": images_seen}, numbers)

    def timing(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append where the time of a step went, and what it took, to the logs."""
        if self._active:
            self._record(self._timing, {"step": step}, numbers)

    def _record(self, descriptor: int, head: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        record = {**head, **{k: round(v, 8) for k, v in numbers.items()}}
        self._writing(lambda: _append(descriptor, json.dumps(record) + "\n"))
        for key, value in numbers.items():
            self._draw(lambda board: board.add_scalar(key, value, head["step"]))  # noqa: B023  (called at once)
        for tracker in self._trackers:
            tracker.log(head["step"], numbers)

    def grid(self, step: int, images: Tensor) -> None:
        """Save a sample grid [N, 3, H, W] in [0, 1]."""
        if not self._active:
            return
        self._writing(lambda: _save_grid(self._folder / SAMPLES / f"step_{step:06d}.png", images.clamp(0, 1)))
        self._draw(lambda board: board.add_images("samples", images.clamp(0, 1), step))

    def sync(self) -> None:
        """Wait until the metrics so far are on the disk: a checkpoint must not be ahead of them."""
        if self._active:
            self._writing(lambda: os.fsync(self._metrics))

    def say(self, message: str) -> None:
        """One line for the person who waits."""
        if self._active:
            self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def raise_failure(self) -> None:
        """Raise the error of a file that could not be written, if there was one."""
        if self.failure is not None:
            raise self.failure

    def _draw(self, draw: Callable[[SummaryWriter], None]) -> None:
        """Tensorboard, for as long as it can write: its thread does not recover."""
        board = self._board
        if board is not None and not self._writing(lambda: draw(board)):
            self._board = None

    def _writing(self, write: Callable[[], None]) -> bool:
        """Whether `write` worked. If not, it is said, or kept as the `failure` that ends the run."""
        try:
            write()
        except OSError as error:
            if self._survive_full_disk and atomic.is_disk_full(error):
                self.say(f"warning: the disk is full; some of the log of {self._folder} is not written")
            else:
                self.failure = self.failure or error
            return False
        return True


def _quiet_about_files(error: threading.ExceptHookArgs) -> None:
    """Tensorboard's thread dies of a full disk, and the next call raises that again where `_writing` deals with it."""
    if not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)


def _append(descriptor: int, line: str) -> None:
    """Add a line in one piece or not at all."""
    before = os.fstat(descriptor).st_size
    content = line.encode()
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def _save_grid(path: Path, images: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic.replacing(path) as partial:
        save_image(images, partial, format="png", nrow=GRID_COLUMNS)


def _forget_after(path: Path, step: int) -> int:
    """Drop the lines of steps that a resumed run is about to repeat; returns how many others could not be read."""
    if not path.exists():
        return 0
    kept, unreadable = [], 0
    for line in path.read_bytes().splitlines():
        number = _step_of(line)
        unreadable += number is None
        if number is not None and number <= step:
            kept.append(line + b"\n")
    atomic.write_bytes(path, b"".join(kept))
    return unreadable


def _step_of(line: bytes) -> int | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else None
