"""Standard output and error that outlive their reader: a closed pipe or a full log device does not stop a run."""

import io
import os
import sys
from typing import TextIO


class SurvivingStream(io.TextIOWrapper):
    """Text to a file descriptor. After the first failure the descriptor leads to nowhere, for C libraries too."""

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        file = io.FileIO(stream.fileno(), "w", closefd=False)
        super().__init__(io.BufferedWriter(file), encoding=stream.encoding, errors=stream.errors, line_buffering=True)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()


def survive_broken_output() -> None:
    """Put surviving streams in the place of standard output and error. What is lost is also in `metrics.jsonl`."""
    sys.stdout, sys.stderr = SurvivingStream(sys.stdout), SurvivingStream(sys.stderr)
