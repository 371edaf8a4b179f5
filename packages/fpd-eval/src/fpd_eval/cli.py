"""The command line. Heavy imports stand inside the commands: `--help` answers at once."""

import io
import re
import sys
from collections import deque
from collections.abc import Sequence
from typing import Annotated

import typer

from fpd_eval.commands.clip_score import clip_score
from fpd_eval.commands.compare import compare, report
from fpd_eval.commands.doctor import doctor
from fpd_eval.commands.geneval import geneval
from fpd_eval.commands.geneval2 import geneval2
from fpd_eval.commands.hps import hps
from fpd_eval.commands.metrics import metrics
from fpd_eval.commands.preference import preference

app = typer.Typer(
    help="Measure one-step generators against their teachers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
LIST_OPTIONS = ("--steps", "--systems", "--geneval", "--encoder")
NUMBERS = "--steps"
NEGATIVE = re.compile(r"-\d")


@app.callback()
def _fpd_eval(
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda asked: _version(asked), is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """Measure one-step generators against their teachers."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"fpd-eval {version('fpd-eval')}")
        raise typer.Exit


app.command()(compare)
app.command()(report)
app.command()(metrics)
app.command()(doctor)
app.command()(clip_score)
app.command()(hps)
app.command()(preference)
app.command()(geneval)
app.command()(geneval2)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fpd-eval`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an ASCII locale loses an arrow, not the table
    app(args=expand_lists(sys.argv[1:] if argv is None else argv), prog_name="fpd-eval")


def expand_lists(argv: Sequence[str]) -> list[str]:
    """`--steps 1 2,4` -> `--steps 1 --steps 2 --steps 4`: the parser knows only repeated options.

    Only numbers may stand between commas: file names may hold some.
    """
    waiting, expanded = deque(argv), list[str]()
    while waiting:
        argument = waiting.popleft()
        name, _, value = argument.partition("=")
        if name not in LIST_OPTIONS:
            expanded.append(argument)
            continue
        values = [value] if value else []
        while waiting and (NEGATIVE.match(waiting[0]) or not waiting[0].startswith("-")):
            values.append(waiting.popleft())
        single = [one for value in values for one in value.split(",") if one] if name == NUMBERS else values
        expanded += [part for one in single for part in (name, one)] or [name]
    return expanded
