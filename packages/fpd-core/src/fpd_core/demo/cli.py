"""`fpd-demo`: a student in the browser. Torch is imported inside, so that help is instant."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from fpd_core.export.cli import CkptOption, TeacherOption, answered, with_version

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
with_version(app, "fpd-demo")


@app.command()
def build(
    ckpt: CkptOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the page.")],
    teacher: TeacherOption = None,
    compare: Annotated[
        bool, typer.Option("--teacher-too/--no-teacher", help="Whether the page also draws with the teacher.")
    ] = True,
    weights: Annotated[
        Literal["full", "half", "int8"], typer.Option(help="As stored; `half` loses nothing of a float16 folder.")
    ] = "half",
) -> None:
    """Write a static page that draws in the browser, offline. Any web server shows it."""
    from fpd_core.demo.build import build as build_page
    from fpd_core.export.cli import load_teacher_of
    from fpd_core.generator import load_generator

    generator = load_generator(ckpt)
    build_page(generator, load_teacher_of(generator, teacher) if compare else None, out, weights)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    Console().print(
        f"{out}: {size / 1e6:.1f} MB; look at it with: python -m http.server --directory {out}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


@app.command()
def serve(
    ckpt: CkptOption,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the network runs.")] = "auto",
) -> None:
    """A small local page whose pictures are drawn in Python, for any student."""
    import torch

    from fpd_core.demo.serve import server
    from fpd_core.generator import load_generator

    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    with server(load_generator(ckpt).to(where), host, port) as running:
        address, taken = running.server_address[:2]
        Console().print(f"http://{address!s}:{taken} ({where}); Ctrl-C ends it", highlight=False, soft_wrap=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return


def main() -> None:
    """Entry point of `fpd-demo`."""
    answered(app)
