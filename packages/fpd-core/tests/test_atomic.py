"""Atomic files: whole or absent, whatever happens in between."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress

from fpd_core import atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_arrive_with_the_mode_of_the_umask(tmp_path):
    atomic.write_text(tmp_path / "a.json", "grün\n")
    atomic.write_bytes(tmp_path / "b.bin", b"\x00\xff")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.json").read_bytes() == b"gr\xc3\xbcn\n"
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert names(tmp_path) == ["a.json", "b.bin", "plain"]


def test_an_error_keeps_the_old_file_and_no_partial_one(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with suppress(KeyboardInterrupt), atomic.replacing(path) as partial:
        partial.write_text("half")
        assert names(tmp_path) == sorted(["a", partial.name])
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_two_writers_of_one_file_do_not_share_a_partial_file(tmp_path):
    with atomic.replacing(tmp_path / "a") as one, atomic.replacing(tmp_path / "a") as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
    assert (tmp_path / "a").read_text() == "1"  # the outer block ends last


LIMITED = """
import signal, sys
from pathlib import Path
from fpd_core import atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    atomic.write_bytes(Path(sys.argv[1]), bytes(100_000))
except OSError as error:
    sys.exit(7 if atomic.is_disk_full(error) and error.filename == sys.argv[1] else 8)
"""


def test_a_used_up_limit_is_recognised_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    assert subprocess.run([sys.executable, "-c", LIMITED, str(path)], preexec_fn=limit).returncode == 7
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]
    assert not atomic.is_disk_full(FileNotFoundError(2, "no such file"))


KILLED = """
import sys
from pathlib import Path
from fpd_core import atomic
for number in range(10**9):
    atomic.write_text(Path(sys.argv[1]), str(number) * 2000)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)])
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    text = path.read_text()
    assert text == text[: len(text) // 2000] * 2000
    (tmp_path / ".folder.partial/inside").mkdir(parents=True)
    atomic.remove_partials(tmp_path)
    assert names(tmp_path) == ["a"]
