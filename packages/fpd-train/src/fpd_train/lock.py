"""One run per folder: a lock file that says who holds it, and is known to be stale when nobody does."""

import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
from pydantic import Field, ValidationError

from fpd_core.config import Config, ConfigError, Count, Number
from fpd_core.untrusted import UntrustedError, read_json

LOCK = "run.lock"
SIGN_OF_LIFE_SECONDS = 3.0


class Holder(Config):
    """Who holds a run folder. The start time tells a process from a later one with the same number."""

    host: str
    pid: Count
    started: Number = Field(ge=0, le=1e11, description="Seconds since 1970.")

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.started).strftime("%Y-%m-%d %H:%M:%S")
        return f"process {self.pid} on {self.host}, started {when}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process.

    The lock is the operating system's where the file system has one; it then dies with its holder. Some file systems
    have none, or one that other machines do not see: there the holder's process, or its signs of life, decide.

    Raises:
        ConfigError: another run holds it; says who.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK
    descriptor, exclusive = _open(path)
    try:
        holder = _read(path)
        if holder is not None and not exclusive and _lives(path, holder):
            raise _refusal(path, holder)
        me = Holder(host=socket.gethostname(), pid=os.getpid(), started=psutil.Process().create_time())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, me.model_dump_json().encode(), 0)
        os.fsync(descriptor)
        over = threading.Event()
        threading.Thread(target=_show_life, args=(descriptor, over), name="lock", daemon=True).start()
        try:
            yield
        finally:
            over.set()
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, bool]:
    """Open the lock file and lock it. Returns its descriptor and whether the lock is proof that nobody holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _refusal(path, _read(path)) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
            return descriptor, False
        if _same(path, descriptor):
            holder = _read(path)
            return descriptor, holder is None or holder.host == socket.gethostname()
        os.close(descriptor)  # its last holder removed the file meanwhile


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(path: Path) -> Holder | None:
    """Who the file says holds it; None if it says nothing, as after a kill while it was written."""
    try:
        return Holder.model_validate(read_json(path))
    except (UntrustedError, ValidationError):
        return None


def _lives(path: Path, holder: Holder) -> bool:
    if holder.host == socket.gethostname():
        try:
            return bool(abs(psutil.Process(holder.pid).create_time() - holder.started) < 1)
        except psutil.NoSuchProcess:
            return False
    seen = _sign_of_life(path)
    for _ in range(4):
        time.sleep(SIGN_OF_LIFE_SECONDS)
        if _sign_of_life(path) != seen:
            return True
    return False


def _sign_of_life(path: Path) -> int:
    with path.open("rb") as file:  # opened anew: network file systems look again only then
        return os.fstat(file.fileno()).st_mtime_ns


def _show_life(descriptor: int, over: threading.Event) -> None:
    while not over.wait(SIGN_OF_LIFE_SECONDS):
        os.utime(descriptor)


def _refusal(path: Path, holder: Holder | None) -> ConfigError:
    who = holder or "a process that has not said who it is"
    return ConfigError(f"{path.parent} is in use by {who}; wait for it, stop it, or choose another output")
