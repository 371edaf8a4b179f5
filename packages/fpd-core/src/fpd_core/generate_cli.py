"""`fpd-generate`: images from an exported one-step generator. Torch is imported inside, so that help is instant."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from fpd_core.generator import Generator

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
GRID, RECORDS = "grid.png", "images.jsonl"


@app.command()
def generate(
    ckpt: Annotated[str, typer.Option(metavar="DIR|OWNER/NAME", help="Exported student: folder or hub repository.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the PNGs, grid.png and images.jsonl.")],
    prompt: Annotated[list[str], typer.Option(help="What a text-conditional student draws; may be repeated.")] = [],  # noqa: B006
    class_: Annotated[
        list[int], typer.Option("--class", help="Class number a class-conditional student draws; may be repeated.")
    ] = [],  # noqa: B006
    n: Annotated[int, typer.Option(min=1, max=2**20, help="Images per prompt or class.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Equal seed and batch size give equal images.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 16,
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits; by default what the student was exported with.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Forward passes; by default what the student was exported with.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the network runs.")] = "auto",
) -> None:
    """Draw images in one forward pass each, or in a few.

    Class-conditional: fpd-generate --ckpt assets/fashion/student --class 7 --class 9 --n 8 --out out

    Text-conditional: fpd-generate --ckpt runs/maskgen/student --prompt "a red bicycle" --out out
    """
    if bool(prompt) == bool(class_):
        raise ValueError("give either --prompt or --class, once or more often")
    if temperature is not None and temperature <= 0:
        raise ValueError(f"--temperature must be positive, got {temperature}")
    import torch

    from fpd_core.generator import load_generator

    generator = load_generator(ckpt)
    if temperature is not None:
        generator = generator.at_temperature(temperature)
    if steps is not None:
        generator = generator.sampled(steps=steps)
    generator.to(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    wanted: list[str] | list[int] = [p for p in prompt for _ in range(n)] or [c for c in class_ for _ in range(n)]
    generator.model.condition(wanted[:1])  # a wrong request is answered before the folder is made
    out.mkdir(parents=True, exist_ok=True)
    images = _draw(generator, wanted, seed, batch_size)
    _write(images, wanted, seed, n, out)
    Console().print(f"{len(images)} images in {out}, all of them in {out / GRID}", highlight=False, soft_wrap=True)


def _draw(generator: "Generator", wanted: list[str] | list[int], seed: int, batch_size: int) -> "Tensor":
    """uint8 [N, H, W, 3]; batch b starts from the seed `seed + b`."""
    import torch

    drawn = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("drawing", total=len(wanted))
        for batch, start in enumerate(range(0, len(wanted), batch_size)):
            images = generator.generate(wanted[start : start + batch_size], seed=seed + batch)
            drawn.append((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
            progress.advance(task, len(images))
    return torch.cat(drawn)


def _write(images: "Tensor", wanted: list[str] | list[int], seed: int, columns: int, out: Path) -> None:
    """One PNG per image, what each shows, and a grid with a row per prompt or class."""
    from PIL import Image

    from fpd_core.atomic import replacing, write_text

    def save(image: "Tensor", name: str) -> None:
        with replacing(out / name) as partial:
            Image.fromarray(image.numpy()).save(partial, "png")

    records = []
    for index, (image, what) in enumerate(zip(images, wanted, strict=True)):
        name = f"{index:05d}.png"
        save(image, name)
        kind = "prompt" if isinstance(what, str) else "class"
        records.append(json.dumps({"file": name, kind: what, "seed": seed}) + "\n")
    write_text(out / RECORDS, "".join(records))
    height, width = images.shape[1:3]
    rows = images.view(-1, columns, height, width, 3).permute(0, 2, 1, 3, 4)
    save(rows.reshape(-1, columns * width, 3).contiguous(), GRID)


def main() -> None:
    """Entry point of `fpd-generate`."""
    try:
        app()
    except (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        from fpd_core.untrusted import printable

        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print("error: ", style="red", end="")
        console.print(printable(error, keep="\n") or "the memory does not suffice", markup=False)
        sys.exit(2)
