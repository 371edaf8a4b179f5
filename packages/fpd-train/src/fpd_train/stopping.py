"""Stopping on request: signals and the death of the launcher, heard at any moment, honoured within a grace time."""

import os
import select
import signal
import threading
import time
from types import FrameType

import psutil

from fpd_train.errors import Exit

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 25.0  # the launcher of DeepSpeed, Slurm and Kubernetes all kill after 30
POLL_SECONDS = 1.0
LAUNCHERS = ("deepspeed", "deepspeed.launcher.launch", "deepspeed.launcher.runner")
BEFORE = "stopped before the first step; nothing is lost"


class StopRequest:
    """Hears SIGINT, SIGTERM, SIGHUP (unless started under nohup) and the end of the launcher.

    The loop looks at `raised` between steps. Where there is no loop to look, at start-up and after the last step, the
    process ends at once. A thread listens, because Python runs signal handlers on the main thread alone, and that may
    be inside a library for minutes; nothing is ever raised out of a handler, where an import could swallow it.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self.raised = False
        self.grace_seconds = grace_seconds
        self._checkpoints: object = "there is no checkpoint"
        self._at_once: str | None = BEFORE
        self._since: float | None = None
        self._heard, told = os.pipe()
        os.set_blocking(told, False)
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _heard_by_thread)
                signal.siginterrupt(number, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_forget)
        threading.Thread(target=self._listen, args=[_launcher()], name="stop requests", daemon=True).start()

    def at_once(self, sentence: str) -> None:
        """From now on a request ends the process at once with this sentence."""
        self._at_once = sentence
        if self.raised:
            self._end(sentence, Exit.INTERRUPTED)

    def between_steps(self, checkpoints: object) -> None:
        """From now on a request waits for the loop, as long as the grace time lasts.

        Args:
            checkpoints: says as text which checkpoint is the last.
        """
        self._checkpoints = checkpoints
        self._at_once = None

    def _listen(self, launcher: list[int]) -> None:
        while True:
            readable, _, _ = select.select([self._heard], [], [], POLL_SECONDS)
            for number in os.read(self._heard, 64) if readable else b"":
                self._request(again=number == signal.SIGINT)
            if launcher and _ancestors(len(launcher)) != launcher:
                launcher = []
                self._request(again=False)
            if self._since is not None and time.monotonic() - self._since > self.grace_seconds:
                self._end(f"not stopped within {self.grace_seconds:g} s (--grace); {self._checkpoints}", Exit.LOST)

    def _request(self, *, again: bool) -> None:
        """Note a request. A second Ctrl-C (`again`) a second later ends the process: somebody is impatient."""
        if self._since is None:
            self._since = time.monotonic()
            self.raised = True
        elif again and time.monotonic() - self._since > 1:
            self._end(f"stopped without a new checkpoint; {self._checkpoints}", Exit.LOST)
        if self._at_once is not None:
            self._end(self._at_once, Exit.INTERRUPTED)

    def _end(self, sentence: str, code: Exit) -> None:
        rank = os.environ.get("RANK", "0")
        if code is not Exit.INTERRUPTED or rank == "0":
            last_words(f"{sentence}. Run the same command to resume." if rank == "0" else f"rank {rank}: {sentence}.")
        os._exit(code)


def last_words(sentence: str) -> None:
    """Write to standard error past all buffers and locks, and never mind if nobody reads it."""
    try:
        os.write(2, f"\n{sentence}\n".encode())
    except OSError:
        return


def _heard_by_thread(number: int, frame: FrameType | None) -> None:
    """The signal's number is already in the pipe that the thread reads."""


def _forget() -> None:
    """Give a forked child the usual signals back: its own would otherwise count as requests to the run."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _launcher() -> list[int]:
    """Processes of the launcher above this rank, nearest first; empty for a plain start, which outlives its shell."""
    if "RANK" not in os.environ:
        return []
    chain = [os.getppid()]
    while (above := _parent(chain[-1])) and _is_launcher(above):
        chain.append(above)
    return chain


def _ancestors(count: int) -> list[int]:
    chain = [os.getppid()]
    while len(chain) < count and (above := _parent(chain[-1])):
        chain.append(above)
    return chain


def _parent(pid: int) -> int:
    try:
        return int(psutil.Process(pid).ppid())
    except psutil.Error:
        return 0


def _is_launcher(pid: int) -> bool:
    try:
        return any(os.path.basename(word) in LAUNCHERS for word in psutil.Process(pid).cmdline()[:4])
    except psutil.Error:
        return False
