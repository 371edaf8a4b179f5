"""Where a path, a URL or a command leads, and how often it is tried."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from fpd_core.untrusted import shown
from fpd_train.data.local import Command, Local
from fpd_train.data.remote import Remote
from fpd_train.errors import DataError

T = TypeVar("T")
FIRST_WAIT_SECONDS = 0.25  # before the first retry; each further one waits twice as long


class Whole(Protocol):
    """What can be read from end to end."""

    def whole(self, limit: int, *, name: str) -> bytes | None:
        """All of it, None where there is none. Raises DataError: more than `limit`, which is called `name`."""
        ...


class Stored(Whole, Protocol):
    """A file somewhere, whose pieces can be read by position."""

    def stamp(self) -> tuple[int, str]:
        """Its size and what changes when its content does."""
        ...

    def ranges(self, starts: Sequence[int], lengths: Sequence[int], coalesce: int = 0) -> list[bytes]:
        """Pieces of it, shorter only where the file ends; gaps of up to `coalesce` bytes may be read along."""
        ...

    def walked(self) -> Callable[[int, int], bytes]:
        """A function of (position, bytes wanted) for positions that only grow."""
        ...


def stored(url: str, *, scattered: bool = True) -> Stored:
    """What a path or a URL names; nothing is opened yet. `scattered`: pieces will be read here and there."""
    return Remote(url) if "://" in url else Local(url, scattered=scattered)


def content_of(url: str, limit: int, *, name: str) -> bytes | None:
    """All that a path, a URL or a command gives, None where there is nothing.

    Raises:
        DataError: more than `limit` bytes, which is called `name`; or the source fails.
    """
    source: Whole = Command(url) if url[:5].lower() == "pipe:" else stored(url)
    return retried(lambda: source.whole(limit, name=name), 0, url)


def retried(work: Callable[[], T], retries: int, url: str) -> T:
    """`work()`, tried again after failures of the source. Raises DataError: it failed `retries` times more."""
    for attempt in range(retries + 1):
        try:
            return work()
        except (DataError, MemoryError):
            raise
        except Exception as error:  # of the operating system, or any of obstore's
            if _is_final(error) or attempt == retries:
                tries = f" ({attempt + 1} tries)" if attempt else ""
                raise DataError(f"{shown(url)} cannot be read{tries}: {reason(error)}") from None
            time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError


def reason(error: Exception) -> str:
    """The first line; obstore's go on with a dump of the request."""
    if type(error).__name__ == "NotSupportedError":
        return "the server answers no range requests; add 'sequential' to allow"
    lines = str(error).strip().splitlines()
    return shown(lines[0].strip()) if lines else type(error).__name__


def _is_final(error: Exception) -> bool:
    """Whether trying again cannot help."""
    names = {kind.__name__ for kind in type(error).__mro__}
    final = {"NotFoundError", "PermissionDeniedError", "UnauthenticatedError", "NotSupportedError", "FileNotFoundError"}
    return bool(names & {*final, "PermissionError", "ValueError"})
