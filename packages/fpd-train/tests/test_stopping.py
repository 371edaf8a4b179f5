"""Requests to stop, between real processes: at start-up, in the loop, beyond the grace time, from a dead launcher."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fpd_train.errors import Exit

HEAD = """
import os, signal, subprocess, sys, time
from fpd_train.stopping import StopRequest
stop = StopRequest(grace_seconds={grace})
"""
# Inside a library that goes on when a signal interrupts it.
BLOCKED = "import ctypes\nprint('ready', flush=True)\nwhile True:\n    ctypes.CDLL(None).sleep(30)"
LOOP = """
stop.between_steps("the last checkpoint is step 4")
print("ready", flush=True)
while not stop.raised:
    time.sleep(0.01)
print("saved", flush=True)
"""
STUCK = LOOP.replace("not stop.raised", "True")


def start(body, grace=20.0, launcher=(), before=None, **environment):
    command = [sys.executable, "-c", HEAD.format(grace=grace) + body]
    process = subprocess.Popen(
        [*launcher, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        preexec_fn=before,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    began = time.monotonic()
    out, err = process.communicate(timeout=20)
    return process.returncode, out.strip(), err.strip(), time.monotonic() - began


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_first_step_a_signal_ends_the_process_even_inside_a_library(number):
    process = start(BLOCKED)
    process.send_signal(number)
    code, _, err, seconds = end(process)
    assert code == Exit.INTERRUPTED
    assert err == "stopped before the first step; nothing is lost. Run the same command to resume."
    assert seconds < 3


@pytest.mark.parametrize("number", SIGNALS)
def test_in_the_loop_a_signal_waits_for_the_step_and_a_repeated_one_changes_nothing(number):
    process = start(LOOP + "time.sleep(0.5)")
    process.send_signal(number)
    assert process.stdout.readline() == "saved\n"
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)
    code, _, err, _ = end(process)
    assert (code, err) == (0, "")


def test_a_grace_time_that_is_over_ends_the_process_and_names_the_checkpoint():
    process = start(STUCK, grace=0.5)
    process.send_signal(signal.SIGTERM)
    code, _, err, seconds = end(process)
    assert code == Exit.LOST
    assert err.startswith("not stopped within 0.5 s (--grace); the last checkpoint is step 4.")
    assert 0.5 <= seconds < 5


def test_a_second_ctrl_c_is_impatience():
    process = start(STUCK)
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    code, _, err, _ = end(process)
    assert code == Exit.LOST
    assert "without a new checkpoint; the last checkpoint is step 4" in err


def test_under_nohup_a_hangup_is_no_request():
    process = start(STUCK, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.kill()
    process.communicate()


def test_a_signal_to_a_child_is_none_of_the_run():
    child = "stop.between_steps('')\npid = os.fork()\nif pid == 0:\n    time.sleep(60)\n"
    look = "os.kill(pid, signal.SIGTERM)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), stop.raised)\n"
    process = start(child + "print('ready', flush=True)\ntime.sleep(0.2)\n" + look)
    assert end(process)[1] == "-15 False"


def wait_for(path):
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.1)
    return path.read_text()


@pytest.fixture
def launchers(tmp_path):
    """Command lines that run their arguments as a child, as the two processes of the real launcher do."""
    for name in ("deepspeed", "launch.py"):
        (tmp_path / name).write_text("import subprocess, sys; subprocess.run(sys.argv[1:])")
    return [[sys.executable, str(tmp_path / name)] for name in ("deepspeed", "launch.py")]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_death_of_the_launcher_is_a_request(launchers, tmp_path, depth):
    body = LOOP + f"open({str(tmp_path / 'end')!r}, 'w').write('saved')"
    process = start(body, launcher=[word for launcher in launchers[:depth] for word in launcher], RANK="0")
    process.kill()
    process.wait()
    assert wait_for(tmp_path / "end") == "saved"


def test_a_plain_start_outlives_its_shell(launchers, tmp_path):
    wait = "stop.between_steps('')\nprint('ready', flush=True)\ntime.sleep(2.5)\n"
    process = start(wait + f"open({str(tmp_path / 'end')!r}, 'w').write(str(stop.raised))", launcher=launchers[0])
    process.kill()
    process.wait()
    assert wait_for(tmp_path / "end") == "False"
