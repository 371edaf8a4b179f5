"""Ends a job that hangs, and says which rank is to blame and what the others wait for."""

import json
import os
import threading
import time
from dataclasses import dataclass

from fpd_train.errors import Exit
from fpd_train.ranks import Store
from fpd_train.stopping import last_words

MAX_INTERVAL_SECONDS = 5.0
SILENT_INTERVALS = 3  # without a sign of life from a rank that works
VERDICT = "fpd/watchdog/verdict"


@dataclass
class _Sighting:
    """What is known of a rank: how far it is, where, and when its last sign of life came."""

    beat: int
    passed: int
    place: str
    when: float


class Watchdog:
    """Knows the place in the loop of every rank. When this rank stands at one for too long, it ends the job.

    Two threads: one exchanges places through the store of the ranks, and stands still with the store when rank 0 does;
    the other waits for nobody and judges.
    """

    def __init__(self, store: Store, rank: int, world: int, limit_seconds: float, checkpoints: object) -> None:
        self._checkpoints = checkpoints  # says as text which is the last
        self._store, self._rank, self._world, self._limit = store, rank, world, limit_seconds
        self._interval = min(MAX_INTERVAL_SECONDS, limit_seconds / 8)
        self._place, self._passed, self._since = "the start", 0, time.monotonic()
        self._exchanged = time.monotonic()
        self._seen: dict[int, _Sighting] = {}
        self._off = threading.Event()

    def __enter__(self) -> "Watchdog":
        self._since = self._exchanged = time.monotonic()
        for name, work in (("watchdog exchange", self._exchange), ("watchdog", self._judge)):
            threading.Thread(target=work, name=name, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._off.set()

    def at(self, place: str) -> None:
        """The main thread comes to a place where it may have to wait."""
        self._place, self._since = place, time.monotonic()
        self._passed += 1

    def _exchange(self) -> None:
        beat = 0
        while not self._off.wait(self._interval):
            beat += 1
            try:
                self._store.set(_key(self._rank), json.dumps([beat, self._passed, self._place]))
                if time.monotonic() - self._since > self._limit / 3:
                    self._look()
            except RuntimeError:  # the store ended with rank 0
                return
            self._exchanged = time.monotonic()

    def _look(self) -> None:
        for rank in range(self._world):
            heard = self._store.check([_key(rank)])
            beat, passed, place = json.loads(self._store.get(_key(rank))) if heard else (0, 0, "the start")
            known = self._seen.get(rank)
            if known is None or known.beat != beat:
                self._seen[rank] = _Sighting(beat, passed, place, time.monotonic())

    def _judge(self) -> None:
        while not self._off.wait(self._interval):
            if time.monotonic() - self._since > self._limit:
                self._end()

    def _end(self) -> None:
        """Say who hangs, once for the whole job, and leave."""
        threading.Timer(2 * self._interval, os._exit, [Exit.LOST]).start()  # should the store be silent from now on
        answered = time.monotonic() - self._exchanged < SILENT_INTERVALS * self._interval
        if self._speaks(answered):
            verdict = self._verdict() if answered else f"rank 0 does not answer; rank {self._rank} is at {self._place}"
            last_words(
                f"{verdict}, for more than {self._limit:g} s (watchdog_seconds); the job ends; {self._checkpoints}."
            )
        else:
            time.sleep(self._interval)  # leaving first would make the launcher silence the speaker
        os._exit(Exit.LOST)

    def _speaks(self, answered: bool) -> bool:
        """Whether this rank is the one to say it: the first to ask the store, or rank 1 for a silent rank 0."""
        if not answered:
            return self._rank == min(1, self._world - 1)
        try:
            return self._store.add(VERDICT, 1) == 1
        except RuntimeError:  # the store ended with rank 0, which has spoken
            return False

    def _verdict(self) -> str:
        now = time.monotonic()
        silent = [rank for rank, known in self._seen.items() if now - known.when > SILENT_INTERVALS * self._interval]
        furthest = max((known.passed for rank, known in self._seen.items() if rank not in silent), default=0)
        behind = silent or [rank for rank, known in self._seen.items() if known.passed < furthest]
        if not behind or len(behind) == self._world:
            return f"{'every rank' if self._world > 1 else 'the run'} hangs in {self._place}"
        culprits = ", ".join(
            f"rank {rank} {'gives no sign of life since' if rank in silent else 'hangs in'} {self._seen[rank].place}"
            for rank in behind
        )
        waiting = next(known.place for rank, known in self._seen.items() if rank not in behind)
        return f"{culprits}; the others wait in {waiting}"


def _key(rank: int) -> str:
    return f"fpd/watchdog/{rank}"
