"""What a run tells the world: a rich progress bar, `metrics.jsonl`, tensorboard and sample grids."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import save_image

# Shown beside the bar when a method reports them; everything is in the log.
SHOWN = {"loss": "loss", "rms": "Z_h", "alignment": "cos", "entropy": "entropy", "accuracy": "acc", "codes": "codes"}
GRID_COLUMNS = 10


class RunLog:
    """Log of one run. On ranks other than 0 it does nothing."""

    def __init__(self, folder: Path, *, active: bool, start: int, steps: int, title: str) -> None:
        self._active, self._folder, self._start = active, folder, start
        self._began = time.monotonic()
        self._console = Console(stderr=True)
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _forget_after(folder / "metrics.jsonl", start)
        self._file: IO[str] = (folder / "metrics.jsonl").open("a", buffering=1)
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

    def __enter__(self) -> "RunLog":
        if self._active:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._progress.stop()
            self._file.close()
            self._board.close()

    def step(self, step: int, images_seen: int, numbers: dict[str, float], *, write: bool) -> None:
        """Advance the bar; with `write`, append the numbers of this step to the logs."""
        if not self._active:
            return
        shown = "  ".join(f"{label} {numbers[key]:.4g}" for key, label in SHOWN.items() if key in numbers)
        rate = numbers["images_per_second"]
        self._progress.update(self._task, completed=step, numbers=f"{shown}  {rate:.0f} img/s")
        if not write:
            return
        record = {"step": step, "images_seen": images_seen, **{k: round(v, 8) for k, v in numbers.items()}}
        self._file.write(json.dumps(record) + "\n")
        for key, value in numbers.items():
            self._board.add_scalar(key, value, step)
        if not self._console.is_terminal:
            self._console.print(f"step {step}  {shown}  {rate:.0f} img/s", highlight=False)

    def grid(self, step: int, images: Tensor) -> None:
        """Save a sample grid [N, 3, H, W] in [0, 1]."""
        if not self._active:
            return
        path = self._folder / "samples" / f"step_{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        save_image(images.clamp(0, 1), path, nrow=GRID_COLUMNS)
        self._board.add_images("samples", images.clamp(0, 1), step)

    def say(self, message: str) -> None:
        """One line for the person who waits."""
        if self._active:
            self._console.print(message, highlight=False)


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run is about to repeat."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if line and json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept))
