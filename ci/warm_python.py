"""Real Python processes for tests that start many, without the ten seconds in which each would import its libraries.

One process imports them and forks for every program. A program has its own process id, session, environment, folder,
limits and output, as with `subprocess.Popen`. Three things a fresh interpreter has and a fork lacks: imports that take
time and may fail, a command line that other processes can read, hashes of strings that differ from process to process.
Tests of these start `sys.executable`.
"""

import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# Beside the trainer's, what programs import when they come to it: torch's compiler with the first optimizer, and so on.
LIBRARIES = ("fpd_train.trainer", "torch._dynamo", "peft", "matplotlib.figure", "pytest")


class Program:
    """A running program: what the tests use of `subprocess.Popen`."""

    def __init__(self, reports: socket.socket, output: int) -> None:
        self._reports = reports
        self.stdout = os.fdopen(output)
        self.pid = int(reports.recv(64))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it prints until the last process that can print is gone. Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        said = b""
        while select.select([self.stdout], [], [], until and max(0.0, until - time.monotonic()))[0]:
            if not (more := os.read(self.stdout.fileno(), 1 << 16)):
                self.wait(until and max(0.0, until - time.monotonic()))
                return said.decode(), None
            said += more
        raise subprocess.TimeoutExpired(str(self.pid), timeout or 0, said)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._reports], [], [], timeout)[0]:
            self.returncode = int(self._reports.recv(64))
        return self.returncode


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def outcome(processes: Sequence[Any], timeout: float = 200) -> tuple[int, str]:
    """Wait for all ranks: the worst exit code and what they print."""
    output = "".join(process.communicate(timeout)[0] for process in processes)
    return max((process.returncode for process in processes), key=abs), output


class WarmPython:
    """The process that has imported everything; it ends with the one that made it."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )

    def start(
        self,
        arguments: Sequence[str],
        *,
        ranks: int = 1,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        file_limit: int | None = None,
    ) -> list[Program]:
        """Run what `python` would with these arguments, a script or `-m` and a module, on one or several ranks.

        Args:
            file_limit: size that the files may have, in bytes.
        """
        meeting = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        places = [meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        request = {
            "arguments": [str(word) for word in arguments],
            "cwd": str(cwd or Path.cwd()),
            "file_limit": file_limit,
        }
        variables = dict(os.environ if env is None else env)
        return [self._start(request | {"env": variables | place}) for place in (places if ranks > 1 else [{}])]

    def _start(self, request: Mapping[str, Any]) -> Program:
        read, write = os.pipe()
        reports, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [write, theirs.fileno()])
        os.close(write)
        return Program(reports, read)

    def stop(self) -> None:
        self._requests.close()
        self._process.wait()


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for every request. Returns it, in the process that is to become the program."""
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, 1 << 20, 2)
        if not message:
            sys.exit()
        if os.fork() == 0:
            requests.close()
            if (program := os.fork()) == 0:
                output, reports = descriptors
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.close(output)
                os.close(reports)
                return dict(json.loads(message))
            _keep(program, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):  # none is left
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
                pass


def _keep(program: int, output: int, reports: int) -> None:
    os.close(output)
    os.write(reports, str(program).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    os.write(reports, str(code).encode())
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Be the program."""
    import numpy

    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    numpy.random.seed()  # as in a fresh interpreter; `random` does it by itself
    if limit := request["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    first, *rest = request["arguments"]
    if first == "-m":
        sys.argv = rest
        sys.path.insert(0, request["cwd"])
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as incoming:
        for library in LIBRARIES:
            importlib.import_module(library)
        sys.stdout.flush()  # or every fork would say it again
        asked = serve(incoming)
    become(asked)
