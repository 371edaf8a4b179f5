"""Child processes of one thread each, and what they took."""

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path


class Failed(ValueError):
    """A run or its measurement ended badly; the message says why."""


@dataclass(frozen=True)
class Output:
    """Standard output, seconds on the clock, and the highest resident memory in bytes."""

    text: str
    seconds: float
    peak_memory: int


@dataclass
class Processes:
    """Child processes, so that Ctrl-C reaches those that work."""

    threads: int = 1
    running: set[subprocess.Popen[str]] = field(default_factory=set)
    stopped: bool = False

    def call(self, command: list[str], log: Path) -> Output:
        """What it printed; its errors go to `log`. Raises Failed with the last line of them."""
        if self.stopped:
            raise Failed("stopped before it began")
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with log.open("a") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                start_new_session=True,
            )
            self.running.add(process)
            assert process.stdout is not None
            text = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)  # in place of `wait`, which drops the memory
            process.returncode = os.waitstatus_to_exitcode(status)
        self.running.discard(process)
        if process.returncode:
            said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise Failed(f"exit code {process.returncode}: {said[-1] if said else 'nothing was said'}")
        return Output(text, time.monotonic() - began, usage.ru_maxrss * 1024)

    def stop(self) -> None:
        """Ask every child to save and end, and wait until all have. Not by SIGINT, which background jobs ignore."""
        self.stopped = True
        for process in (working := list(self.running)):
            process.terminate()
        for process in working:
            process.wait()
