"""Work done in the background, a few results ahead of whoever asks for them."""

import threading
import weakref
from collections.abc import Iterator
from queue import Empty, Queue
from typing import Generic, TypeVar

T = TypeVar("T")
_PATIENCE_SECONDS = 60  # a server may keep it waiting


class Ahead(Generic[T]):
    """The items of an endless iterator, made by a thread of their own from the first `next` on, in their order.

    What the iterator raises is raised at its place. The thread ends when nobody holds this any longer, or the process
    ends: native code that still runs then would abort it.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._queue: Queue[T | BaseException] = Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=_fill, args=(items, self._queue, self._stop), name="data", daemon=True)
        weakref.finalize(self, _end, self._thread, self._queue, self._stop)

    def __iter__(self) -> "Ahead[T]":
        return self

    def __next__(self) -> T:
        if self._thread.ident is None:
            self._thread.start()
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._queue.put(item)  # it is as broken for whoever asks again
            raise item
        return item


def _fill(items: Iterator[T], queue: "Queue[T | BaseException]", stop: threading.Event) -> None:
    try:
        for item in items:
            queue.put(item)
            if stop.is_set():
                return
    except BaseException as error:
        queue.put(error)


def _end(thread: threading.Thread, queue: "Queue[T | BaseException]", stop: threading.Event) -> None:
    """Let the thread see that it is not wanted, for it may be waiting for room, and wait for what it is amid of."""
    stop.set()
    try:
        while True:
            queue.get_nowait()
    except Empty:
        pass
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join(_PATIENCE_SECONDS)
