"""Output that nobody reads does not stop a process, and what was readable arrives whole."""

import os
import subprocess
import sys

import pytest

TALK = """
import os, sys, warnings
from rich.console import Console
from fpd_train.streams import survive_broken_output
survive_broken_output()
for number in range(2000):
    print("line", number)
    print("line", number, file=sys.stderr)
Console(stderr=True).print("rich " * 200)
warnings.warn("still here")
os.write(1, b"past the stream"), os.write(2, b"past the stream")
open(sys.argv[1], "w").write("arrived")
"""


@pytest.mark.parametrize("shell", ["{} 2>&1 | head -2", "{} 2>&1 >/dev/full | head -1", "{} >/dev/full 2>/dev/full"])
def test_a_broken_output_stops_nothing(tmp_path, shell):
    talk = f'{sys.executable} -c "$TALK" {tmp_path}/end'
    command = ["bash", "-o", "pipefail", "-c", shell.format(talk)]
    result = subprocess.run(command, env=os.environ | {"TALK": TALK}, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "end").read_text() == "arrived"


def test_a_whole_output_is_unchanged(tmp_path):
    command = [sys.executable, "-c", TALK, str(tmp_path / "end")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "".join(f"line {number}\n" for number in range(2000)) + "past the stream"
    assert result.stderr.startswith("".join(f"line {number}\n" for number in range(2000)) + "rich rich")
