"""What the tests start in place of an interpreter is a process of its own, and only its imports are done."""

import json
import signal
import subprocess

import pytest
from warm_python import outcome

SAYS = """
import json, os, random, sys
import numpy
assert sys.argv[1:] == ["a b"] and "torch" in sys.modules
sys.stdout.reconfigure(errors="replace")
seen = {"pid": os.getpid(), "session": os.getsid(0), "folder": os.getcwd(), "environment": dict(os.environ)}
print(json.dumps(seen | {"random": [random.random(), numpy.random.random()]}))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""


def test_a_program_has_its_own_process_environment_and_chance(warm_python, tmp_path):
    (tmp_path / "says.py").write_text(SAYS)
    seen = []
    for rank, program in enumerate(
        warm_python.start([tmp_path / "says.py", "a b"], ranks=2, cwd=tmp_path, env={"ONLY": "this"})
    ):
        code, output = outcome([program])
        assert code == 3, output
        lines = output.splitlines()
        assert "to stderr" in lines
        seen.append(json.loads(next(line for line in lines if line != "to stderr")))
        assert seen[-1]["pid"] == seen[-1]["session"] == program.pid
        assert seen[-1]["folder"] == str(tmp_path)
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        assert seen[-1]["environment"].pop("MASTER_PORT").isdecimal()
        assert seen[-1]["environment"] == place | {"ONLY": "this"}
    assert all(one != other for one, other in zip(seen[0]["random"], seen[1]["random"], strict=True))


def test_a_program_can_be_waited_for_killed_and_limited(warm_python, tmp_path):
    (tmp_path / "sleeps.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(100)")
    (program,) = warm_python.start([tmp_path / "sleeps.py"])
    assert program.stdout.readline() == "up\n"
    assert program.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        program.communicate(0.01)
    program.kill()
    assert program.wait(20) == -signal.SIGKILL
    (tmp_path / "writes.py").write_text("from pathlib import Path\nPath('large').write_bytes(bytes(1000))")
    code, output = outcome(warm_python.start([tmp_path / "writes.py"], cwd=tmp_path, file_limit=100))
    assert code == 1
    assert "File too large" in output
