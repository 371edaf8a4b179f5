"""What can end a run, in a module light enough for `--help`."""


class DataError(ValueError):
    """A data source is absent, damaged or does not fit; the message names it and the remedy."""


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is saved."""
