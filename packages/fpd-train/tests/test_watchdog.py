"""The watchdog names the rank that keeps the others waiting; every rank here is a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from fpd_train.errors import Exit

RANK = """
import sys, time
from torch.distributed import TCPStore
from fpd_train.watchdog import Watchdog
rank, world, port = (int(word) for word in sys.argv[1:4])
store = TCPStore("127.0.0.1", port, world, is_master=rank == 0)
with Watchdog(store, rank, world, 3.0, "the last checkpoint is step 8") as watchdog:
    watchdog.at("the data of step 9")
    print("ready", flush=True)
    {body}
"""
WAITS = "watchdog.at('the all-reduce of step 9'); time.sleep(30)"
HANGS = "time.sleep(30)"
WORKS = "[(watchdog.at('step'), time.sleep(0.5)) for _ in range(10)]"


@pytest.fixture
def job():
    """`job(bodies)` starts one process per rank."""
    started = []

    def start(bodies):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank, body in enumerate(bodies):
            command = [sys.executable, "-c", RANK.format(body=body), *map(str, (rank, len(bodies), port))]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout.readline() == "ready\n"
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(processes):
    lines = [line for process in processes for line in process.communicate(timeout=20)[1].splitlines()]
    said = [line for line in lines if "watchdog_seconds" in line]  # torch adds its own about a lost store
    return [process.returncode for process in processes], said


END = ", for more than 3 s (watchdog_seconds); the job ends; the last checkpoint is step 8."


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_rank_that_hangs_is_named_once(job, culprit):
    bodies = [WAITS, WAITS, WAITS]
    bodies[culprit] = HANGS
    codes, said = ends(job(bodies))
    assert codes == [Exit.LOST] * 3
    assert said == [f"rank {culprit} hangs in the data of step 9; the others wait in the all-reduce of step 9{END}"]


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_rank_that_is_frozen_is_named(job, culprit):
    processes = job([WAITS, WAITS, WAITS])
    time.sleep(0.5)
    os.kill(processes[culprit].pid, signal.SIGSTOP)
    codes, said = ends([p for rank, p in enumerate(processes) if rank != culprit])
    assert codes == [Exit.LOST] * 2
    assert len(said) == 1
    named = "rank 0 does not answer; rank 1 is at" if culprit == 0 else "rank 1 gives no sign of life since"
    assert said[0].startswith(f"{named} the all-reduce of step 9")


def test_a_rank_that_froze_before_its_first_sign_of_life(job):
    processes = job([WAITS, WAITS])
    os.kill(processes[1].pid, signal.SIGSTOP)
    assert ends(processes[:1])[1][0].startswith("rank 1 gives no sign of life since the ")


def test_all_ranks_in_one_place(job):
    assert ends(job([WAITS, WAITS]))[1] == [f"every rank hangs in the all-reduce of step 9{END}"]


def test_one_process_alone(job):
    assert ends(job([HANGS])) == ([Exit.LOST], [f"the run hangs in the data of step 9{END}"])


def test_slow_is_not_hanging(job):
    assert ends(job([WORKS, WORKS])) == ([0, 0], [])
