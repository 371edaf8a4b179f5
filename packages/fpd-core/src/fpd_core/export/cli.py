"""`fpd-export`: students as one graph. Torch is imported inside, so that help is instant."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from fpd_core.export.graph import Graph
    from fpd_core.generator import Generator
    from fpd_core.teachers import Teacher

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
Part = Literal["student", "denoiser", "decoder"]
CkptOption = Annotated[Path, typer.Option("--ckpt", metavar="DIR", help="Folder of an exported student.")]
PartOption = Annotated[
    Part,
    typer.Option(
        help="`student`: noise and condition to pixels. `denoiser`: one guided forward pass to logits, of the "
        "student's network, or of its teacher with --teacher. `decoder`: tokens to pixels."
    ),
]
TeacherOption = Annotated[
    Path | None, typer.Option("--teacher", metavar="DIR", help="Weight folder of the teacher, for its denoiser.")
]


def with_version(group: typer.Typer, command: str) -> None:
    """Give a group of commands `--version`."""

    def show(asked: bool) -> None:
        if asked:
            print(f"{command} {version('fpd-core')}")
            raise typer.Exit

    option = typer.Option("--version", callback=show, is_eager=True, help="Print the version and exit.")

    @group.callback()
    def _root(asked: Annotated[bool, option] = False) -> None:
        pass


with_version(app, "fpd-export")


@app.command()
def onnx(
    ckpt: CkptOption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .onnx file; FILE with .json describes it.")],
    part: PartOption = "student",
    teacher: TeacherOption = None,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Of the arithmetic.")] = "float32",
    weights: Annotated[
        Literal["full", "half", "int8"], typer.Option(help="As stored; `half` computes in --dtype all the same.")
    ] = "full",
) -> None:
    """One ONNX graph, any batch size."""
    from fpd_core.atomic import write_text
    from fpd_core.export.onnx_file import save_onnx
    from fpd_core.export.vocabulary import description

    graph = _graph(ckpt, part, teacher)
    save_onnx(graph, out, dtype, weights)
    about = {**description(graph), "dtype": dtype, "weights": weights}
    write_text(out.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
    _say(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {', '.join(graph.inputs)} -> {', '.join(graph.outputs)}")


@app.command()
def pt2(
    ckpt: CkptOption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .pt2 file.")],
    part: PartOption = "student",
    teacher: TeacherOption = None,
) -> None:
    """The same graph as a program of torch.export: torch.export.load(FILE).module()(condition, noise)."""
    from fpd_core.export.program import save_program

    graph = _graph(ckpt, part, teacher)
    save_program(graph, out)
    _say(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {', '.join(graph.inputs)} -> {', '.join(graph.outputs)}")


@app.command()
def outline(
    teacher: Annotated[str, typer.Option(help="Family, by its registry name: maskgit or maskgen.")],
) -> None:
    """Trace a public family's student at full size without a weight: what would be exported, in seconds."""
    from fpd_core.export.outline import outline as traced

    _say(str(traced(teacher)))


def _graph(ckpt: Path, part: Part, teacher: Path | None) -> "Graph":
    from fpd_core.export.graph import Decoder, Denoiser, OneStep
    from fpd_core.generator import load_generator

    generator = load_generator(ckpt)
    if part == "student":
        return OneStep(generator)
    model = generator.model if teacher is None else load_teacher_of(generator, teacher)
    return Denoiser(model) if part == "denoiser" else Decoder(model)


def load_teacher_of(generator: "Generator", folder: Path | None) -> "Teacher":
    """A student's teacher, where its config says or in another folder. Raises CheckpointError: it is not there."""
    from fpd_core.teachers import load_teacher

    return load_teacher({**generator.teacher_config, **({} if folder is None else {"path": str(folder)})})


def _say(line: str) -> None:
    Console().print(line, highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """Entry point of `fpd-export`."""
    answered(app)


def answered(command: typer.Typer) -> None:
    """Run a command line; mistakes end in one sentence and exit status 2."""
    try:
        command()
    except (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        from fpd_core.untrusted import printable

        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print("error: ", style="red", end="")
        console.print(printable(error, keep="\n") or "the memory does not suffice", markup=False)
        sys.exit(2)
