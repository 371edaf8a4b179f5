"""The command line. Heavy imports stand inside the commands: `--help` answers at once."""

import re
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpd_eval.commands.clip_score import clip_score
from fpd_eval.commands.doctor import doctor
from fpd_eval.commands.geneval import geneval
from fpd_eval.commands.hps import hps
from fpd_eval.commands.metrics import metrics
from fpd_eval.usage import given, user_errors

if TYPE_CHECKING:
    from fpd_eval.compare import Candidate, Comparison
    from fpd_eval.protocol import EvaluationProtocol
    from fpd_eval.results import Results

app = typer.Typer(
    help="Measure one-step generators against their teachers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
LIST_OPTIONS = ("--steps",)
NEGATIVE = re.compile(r"-\d")

app.command()(metrics)
app.command()(doctor)
app.command()(clip_score)
app.command()(hps)
app.command()(geneval)


@app.command()
def compare(
    ckpt: Annotated[list[str], typer.Option(metavar="[NAME=]DIR", help="Student folder; may be repeated.")],
    steps: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Teacher steps, as in: --steps 1 2 4.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Teacher family or weight folder; by default the student's own.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="How the teacher decodes: confidence or halton.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Of the teacher; 1 turns guidance off.")] = None,
    num_images: Annotated[int | None, typer.Option(help="Generated images per system.")] = None,
    num_references: Annotated[int | None, typer.Option(help="Real images to compare with; all by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all generated images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per batch; part of the protocol.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Report folder; by default `report` beside the first student.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Training run whose loss curves are shown.")] = None,
    cache_dir: Annotated[Path, typer.Option(help="Where features and numbers are kept.")] = Path(".cache/fpd-eval"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON and nothing else.")] = False,
) -> None:
    """Teacher at each step count, untrained one-step teacher and students: one table, one report."""
    with user_errors():
        from fpd_eval.compare import Comparison
        from fpd_eval.protocol import EvaluationProtocol

        students = [_candidate(argument, alone=len(ckpt) == 1) for argument in ckpt]
        comparison = given(
            Comparison, students=students, steps=steps, teacher=teacher, sampler=sampler, guidance_scale=guidance_scale
        )
        protocol = given(
            EvaluationProtocol,
            num_images=num_images,
            num_references=num_references,
            seed=seed,
            batch_size=batch_size,
        )
        results = _compare(comparison, protocol, device=device, run=run, cache_dir=cache_dir)
        _show(results, out or students[0].folder.parent / "report", as_json=as_json)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="`results.json` of an earlier comparison.")],
    out: Annotated[Path, typer.Option(help="Report folder.")],
) -> None:
    """Write the report of an earlier comparison again."""
    with user_errors():
        from fpd_eval.results import read_results

        _show(read_results(results), out, as_json=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fpd-eval`."""
    app(args=expand_lists(sys.argv[1:] if argv is None else argv), prog_name="fpd-eval")


def expand_lists(argv: Sequence[str]) -> list[str]:
    """`--steps 1 2,4` -> `--steps 1 --steps 2 --steps 4`: the parser knows only repeated options."""
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
        numbers = [number for value in values for number in value.split(",") if number]
        expanded += [part for number in numbers for part in (name, number)] or [name]
    return expanded


def _candidate(argument: str, *, alone: bool) -> "Candidate":
    """`NAME=DIR` or `DIR`; without a name the folder's, or "student" where there is only one."""
    from fpd_eval.compare import Candidate

    name, separator, folder = argument.partition("=")
    if separator and "/" not in name:
        return given(Candidate, name=name, folder=folder)
    path = Path(argument)
    return given(Candidate, name="student" if alone else path.resolve().name, folder=path)


def _compare(
    comparison: "Comparison", protocol: "EvaluationProtocol", *, device: str, run: Path | None, cache_dir: Path
) -> "Results":
    from rich.console import Console

    from fpd_eval.cache import Cache
    from fpd_eval.compare import compare, systems
    from fpd_eval.curves import METRICS, read_curves
    from fpd_eval.evaluate import open_bench
    from fpd_eval.machine import usable_device
    from fpd_eval.progress import bars

    beside = comparison.students[0].folder.parent
    run = run or (beside if (beside / METRICS).is_file() else None)
    curves = read_curves(run) if run else ()
    usable_device(device)
    measured = systems(comparison, num_classes=protocol.num_classes, device=device)
    bench = open_bench(protocol, Cache(cache_dir), device=device, track=bars(Console(stderr=True)))
    return compare(measured, bench, curves=curves)


def _show(results: "Results", folder: Path, *, as_json: bool) -> None:
    """Write the report; print the table and the report's place, or only JSON."""
    from rich.console import Console

    from fpd_eval.report import write_report
    from fpd_eval.tables import terminal_table

    page = write_report(results, folder)
    if as_json:
        shown = results.model_dump_json(indent=2, exclude={"curves": True, "rows": {"__all__": {"samples"}}})
        print(shown)
        return
    console = Console()
    console.print(terminal_table(results))
    console.print(results.protocol.sentence(), markup=False, highlight=False, style="dim")
    console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
