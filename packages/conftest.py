"""Fuzz tests of all packages: how many cases they run, and the count at the end."""

import os
import random
import signal
from collections.abc import Callable

import pytest
from warm_python import WarmPython

# Some tests send signals to processes of theirs, which would ignore SIGHUP where the tests run under nohup, and SIGINT
# where a script starts them with `&`.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

FACTOR = int(os.environ.get("FPD_FUZZ", "1"))  # `FPD_FUZZ=20 pytest -m fuzz` runs twenty times as many and counts them
COUNTS = pytest.StashKey[dict[str, int]]()


def pytest_configure(config):
    config.stash[COUNTS] = {}


@pytest.fixture(scope="session")
def warm_python():
    """Starts programs that find their imports done."""
    python = WarmPython()
    yield python
    python.stop()


@pytest.fixture
def cases(request) -> Callable[[int], int]:
    """`cases(n)` is how many a fuzz test runs: n, or a multiple where more are asked for."""

    def scaled(usual: int) -> int:
        request.config.stash[COUNTS][request.node.name] = usual * FACTOR
        return usual * FACTOR

    return scaled


@pytest.fixture
def damaged() -> Callable[[bytes, random.Random], bytes]:
    """`damaged(content, rng)`: the content with a few bytes flipped, changed, cut or added."""

    def damage(content: bytes, rng: random.Random) -> bytes:
        data = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            match rng.choice(("flip", "flip", "flip", "set", "cut", "add")):
                case "flip":
                    data[place] ^= 1 << rng.randrange(8)
                case "set":
                    data[place] = rng.choice((0, 10, 46, 47, 48, 57, 127, 128, 255, rng.randrange(256)))
                case "cut":
                    del data[place:]
                case "add":
                    data[place:place] = rng.randbytes(5)
            data = data or bytearray(b"\0")
        return bytes(data)

    return damage


def pytest_collection_modifyitems(items):
    for item in items:
        if FACTOR > 1 and item.get_closest_marker("fuzz"):
            item.add_marker(pytest.mark.timeout(3600), append=False)


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash[COUNTS]
    if counts and "FPD_FUZZ" in os.environ:
        for name, count in counts.items():
            terminalreporter.write_line(f"{count:>9,} cases  {name}")
        terminalreporter.write_line(f"{sum(counts.values()):>9,} cases in all")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: a gzip stamps the time, and workers that collect in different seconds must agree."""
    return argname if isinstance(val, bytes) else None
