"""Work in the background: in order, errors at their place, and nothing runs on when nobody wants it."""

import itertools
import threading
import time

import pytest

from fpd_train.data.ahead import Ahead


def running():
    return [thread for thread in threading.enumerate() if thread.name == "data"]


def test_items_come_in_order_and_only_so_many_ahead():
    made = []
    ahead = Ahead((made.append(n) or n for n in itertools.count()), 3)
    assert not made
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    for _ in range(100):
        if len(made) == 9:
            break
        time.sleep(0.01)
    assert made == list(range(9))  # five given, three kept, one in hand


def test_an_error_comes_at_its_place_and_again():
    def items():
        yield 1
        raise ValueError("broken")

    ahead = Ahead(items(), 2)
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            next(ahead)


def test_the_thread_has_ended_when_the_last_holder_lets_go():
    before = running()
    done = []

    def items():
        for number in itertools.count():
            time.sleep(0.02)
            done.append(number)
            yield number

    ahead = Ahead(items(), 1)
    next(ahead)
    assert len(running()) == len(before) + 1
    del ahead
    assert running() == before
    count = len(done)
    time.sleep(0.05)
    assert len(done) == count
