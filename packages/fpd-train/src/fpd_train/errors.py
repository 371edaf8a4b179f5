"""What can end a run, in a module light enough for `--help`."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `fpd-train` and of every rank."""

    DONE = 0
    MISTAKE = 2  # something to mend first; one sentence says what
    LOST = 3  # ended without a checkpoint of the last step: a rank hung or died, or the grace time was too short
    INTERRUPTED = 130  # stopped on request, everything is saved


class DataError(ValueError):
    """A data source is absent, damaged or does not fit; the message names it and the remedy."""


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient, or the weights themselves are not finite."""


class RankError(RuntimeError):
    """The ranks cannot meet, or one of them is gone."""


class OutOfMemoryError(RuntimeError):
    """A rank's memory is too small; the message says what to change first."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is saved."""
