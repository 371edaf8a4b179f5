"""Fuzz tests of all packages: how many cases they run, and the count at the end."""

import os
from collections.abc import Callable

import pytest

FACTOR = int(os.environ.get("FPD_FUZZ", "1"))  # `FPD_FUZZ=20 pytest -m fuzz` runs twenty times as many and counts them
COUNTS = pytest.StashKey[dict[str, int]]()


def pytest_configure(config):
    config.stash[COUNTS] = {}


@pytest.fixture
def cases(request) -> Callable[[int], int]:
    """`cases(n)` is how many a fuzz test runs: n, or a multiple where more are asked for."""

    def scaled(usual: int) -> int:
        request.config.stash[COUNTS][request.node.name] = usual * FACTOR
        return usual * FACTOR

    return scaled


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash[COUNTS]
    if counts and "FPD_FUZZ" in os.environ:
        for name, count in counts.items():
            terminalreporter.write_line(f"{count:>9,} cases  {name}")
        terminalreporter.write_line(f"{sum(counts.values()):>9,} cases in all")
