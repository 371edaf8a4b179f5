"""The lock of a run folder, between real processes."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import psutil
import pytest

from fpd_core.config import ConfigError
from fpd_train import lock

HOLD = """
import sys, time
from pathlib import Path
from fpd_train.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def no_flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_second_run_is_told_who_holds_the_folder_and_enters_when_it_is_gone(holder, tmp_path, monkeypatch, has_flock):
    if not has_flock:
        monkeypatch.setattr(lock.fcntl, "flock", no_flock)
    sentence = rf"in use by process {holder.pid} on {socket.gethostname()}, started 20"
    with pytest.raises(ConfigError, match=sentence), lock.locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.LOCK).exists()
    with lock.locked(tmp_path):
        assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / lock.LOCK).exists()


def write(folder, **holder):
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    (folder / lock.LOCK).write_text(json.dumps(me | holder))


@pytest.mark.parametrize("has_flock", [True, False])
@pytest.mark.parametrize("content", [{"started": 1000.0}, {"pid": 2**22 + 1}, {"host": "elsewhere"}, None])
def test_stale_locks_are_recognised(tmp_path, monkeypatch, has_flock, content):
    """A number that another process has by now, one that nobody has, a silent machine, half a file."""
    monkeypatch.setattr(lock, "SIGN_OF_LIFE_SECONDS", 0.02)
    if not has_flock:
        monkeypatch.setattr(lock.fcntl, "flock", no_flock)
    if content is None:
        (tmp_path / lock.LOCK).write_text('{"host": "x", "p')
    else:
        write(tmp_path, **content)
    with lock.locked(tmp_path):
        pass


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_holder_on_another_machine_shows_signs_of_life(tmp_path, monkeypatch, has_flock):
    monkeypatch.setattr(lock, "SIGN_OF_LIFE_SECONDS", 0.02)
    if not has_flock:
        monkeypatch.setattr(lock.fcntl, "flock", no_flock)
    write(tmp_path, host="elsewhere")
    over = threading.Event()
    descriptor = os.open(tmp_path / lock.LOCK, os.O_RDWR)
    signs = threading.Thread(target=lock._show_life, args=(descriptor, over))
    signs.start()
    try:
        with pytest.raises(ConfigError, match="on elsewhere"), lock.locked(tmp_path):
            pass
    finally:
        over.set()
        signs.join()
        os.close(descriptor)
