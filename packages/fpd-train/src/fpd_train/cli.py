"""`fpd-train` and the entry point of `run.py`. Torch is imported inside commands, so that help is instant."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fpd_core.devices import require_device, require_driver
from fpd_train.config_tree import read_tree, synthetic_overrides
from fpd_train.doctor_cli import doctor_command
from fpd_train.encode_cli import encode_command
from fpd_train.errors import DataError, Exit, Interrupted, NonFiniteError, OutOfMemoryError, RankError
from fpd_train.plan_cli import plan_command
from fpd_train.reproduce.command import reproduce_command
from fpd_train.shards_cli import shards_app
from fpd_train.stopping import GRACE_SECONDS, StopRequest
from fpd_train.streams import survive_broken_output
from fpd_train.weights_cli import weights_app

app = typer.Typer(
    help="Train one-step generators by Fixed-Point Distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
rank_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
app.command("doctor")(doctor_command)
app.command("plan")(plan_command)
app.command("encode")(encode_command)
app.add_typer(weights_app, name="weights")
app.command("reproduce")(reproduce_command)

app.add_typer(shards_app, name="shards")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"fpd-train {version('fpd-train')}")
        raise typer.Exit


@app.callback()
def _fpd_train(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train one-step generators by Fixed-Point Distillation."""


ConfigOption = Annotated[Path, typer.Option("--config", help="A JSON file such as configs/fashion.json.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one value, e.g. --set optimizer.lr=3e-4.")
]
SyntheticOption = Annotated[
    bool,
    typer.Option(
        "--synthetic-weights",
        help="Fill the full-size public networks by formula and shards with noise, to prove and profile the path.",
    ),
]


GraceOption = Annotated[
    float, typer.Option(min=0, help="Seconds to reach the next checkpoint after a signal asks to stop.")
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Resume from this one, e.g. step_000100, even if it has no manifest that vouches for it."
    ),
]


@app.command("run")
@rank_app.command()
def run_command(
    context: typer.Context,
    config: ConfigOption,
    set_: SetOption = [],  # noqa: B006
    synthetic_weights: SyntheticOption = False,
    grace: GraceOption = GRACE_SECONDS,
    checkpoint: CheckpointOption = None,
    profile: Annotated[bool, typer.Option("--profile", help="Write torch traces of two early steps.")] = False,
    local_rank: Annotated[int, typer.Option("--local_rank", hidden=True)] = -1,
) -> None:
    """Train what a config describes: a student, or the tokenizer, teacher or classifier it needs.

    One process: `fpd-train run --config configs/fashion.json`. Several GPUs or nodes:
    `deepspeed --quiet packages/fpd-train/run.py --config configs/fashion.json`.
    The same command resumes an interrupted run.
    """
    stop: StopRequest = context.obj or StopRequest()
    stop.grace_seconds = grace
    survive_broken_output()
    del local_rank  # appended by the deepspeed launcher; the environment says the same

    overrides = _with_weights(config, set_, synthetic_weights)
    require_driver(read_tree(config, overrides).get("device"))

    from fpd_train.config import load_config
    from fpd_train.preflight import check_first

    loaded = load_config(config, overrides)
    require_device(loaded.device)
    check_first(loaded)
    if loaded.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed moves networks to a GPU that it finds

    from fpd_train.trainer import run

    run(loaded, _command_line(), stop, checkpoint, profile=profile)


@app.command("timing")
def timing_command(folder: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Show where the time of a run's steps went, and draw it to timing.png in its folder."""
    from fpd_train.timing import PICTURE, draw, read, table

    lines = read(folder)
    draw(lines, folder / PICTURE)
    Console().print(table(lines))
    print(folder / PICTURE)


@app.command("schema")
def schema_command(
    current: Annotated[bool, typer.Option("--current", help="Of the installed code, not the kept file; slow.")] = False,
) -> None:
    """Print the JSON schema of run configs, for editors and for reading."""
    from fpd_train.schema import current_schema, schema_text

    print(current_schema() if current else schema_text(), end="")


@app.command("bench")
def bench_command(
    config: ConfigOption,
    set_: SetOption = [],  # noqa: B006
    synthetic_weights: SyntheticOption = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls per component; the median counts.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Time the components of a distillation step at the sizes of a config."""
    from fpd_train.config import load_config

    overrides = _with_weights(config, set_, synthetic_weights)
    require_driver(read_tree(config, overrides).get("device"))
    loaded = load_config(config, overrides)
    require_device(loaded.device)

    from fpd_train.bench import bench, show

    show(bench(loaded, repeats), loaded, as_json=as_json)


def _with_weights(config: Path, overrides: list[str], synthetic: bool) -> list[str]:
    return [*overrides, *synthetic_overrides(read_tree(config, overrides))] if synthetic else overrides


def _command_line() -> str:
    words = ["deepspeed packages/fpd-train/run.py" if Path(sys.argv[0]).name == "run.py" else "fpd-train"]
    rest = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    return " ".join([*words, *map(shlex.quote, rest)])


def _report(error: BaseException) -> int:
    """Print one message for the person at the terminal and choose the exit code.

    Rank 0 speaks for all, unless it may be the one that is gone, or a rank's own share of the data is at fault.
    """
    rank = os.environ.get("RANK", "0")
    quiet = rank != "0" and not isinstance(error, RankError | DataError | OutOfMemoryError)
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
    if isinstance(error, Interrupted):
        console.print(f"[yellow]{error}. Run the same command to resume.[/]")
        return Exit.INTERRUPTED
    console.print("error: " if rank == "0" else f"error on rank {rank}: ", style="red", end="")
    console.print(str(error), markup=False)
    return Exit.LOST if isinstance(error, RankError) else Exit.MISTAKE


def _guarded(application: typer.Typer, stop: StopRequest | None = None) -> None:
    try:
        application(obj=stop)
    except (ValueError, OSError, NonFiniteError, OutOfMemoryError, RankError, Interrupted) as error:
        sys.exit(_report(error))


def run_rank(stop: StopRequest) -> None:
    """Entry point of `run.py`, which listens for requests to stop since its first line."""
    _guarded(rank_app, stop)


def main() -> None:
    """Entry point of `fpd-train`."""
    _guarded(app)
