"""`fpd-generate`: images from an exported one-step generator. Torch is imported inside, so that help is instant."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
DEFAULT_N, PROMPT_BYTES = 16, 2**28


def _version(asked: bool) -> None:
    if asked:
        print(f"fpd-generate {version('fpd-core')}")
        raise typer.Exit


@app.command()
def generate(
    ckpt: Annotated[str, typer.Option(metavar="DIR|OWNER/NAME", help="Exported student: folder or hub repository.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the pictures; a run that stopped goes on there.")],
    prompt: Annotated[list[str], typer.Option(help="What a text-conditional student draws; may be repeated.")] = [],  # noqa: B006
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="UTF-8 text, one prompt per line.")] = None,
    class_: Annotated[
        list[int], typer.Option("--class", help="Class number a class-conditional student draws; may be repeated.")
    ] = [],  # noqa: B006
    n: Annotated[
        int | None, typer.Option(min=1, max=2**20, help="Pictures per prompt or class; 16 by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**62, help="Leads to a seed of its own for every picture; 0 by default.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="LIST", help="As 3,5,8-12: one picture per prompt or class and seed.")
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="PNG", help="All pictures in one; DIR-grid.png beside DIR by default.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits; by default what the student was exported with.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Forward passes; by default what the student was exported with.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, hidden=True, help="Of earlier versions: pictures are drawn one by one.")
    ] = 1,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Draw pictures in one forward pass each, or in a few.

    Class-conditional: fpd-generate --ckpt assets/fashion/student --class 7 --class 9 --n 8 --out out

    Text-conditional: fpd-generate --ckpt runs/maskgen/student --prompt "a red bicycle" --seeds 1-4 --out out

    DIR/images.jsonl says what each picture shows and its seed, as does the picture itself (PNG text "fpd").
    """
    del batch_size, show_version
    from fpd_core.devices import require_driver
    from fpd_core.picture_folder import claim, draw, fingerprint, parse_seeds, planned, require_own, write_grid
    from fpd_core.track import bars

    wanted = _wanted(prompt, prompts, class_)
    if temperature is not None and temperature <= 0:
        raise ValueError(f"--temperature must be positive, got {temperature}")
    if seeds is not None and (n is not None or seed is not None):
        raise ValueError("--seeds names the seed of every picture; --n and --seed belong to the other way")
    named = parse_seeds(seeds) if seeds is not None else None
    pictures = planned(wanted, named, seed=seed or 0, n=n or DEFAULT_N)
    place = out.resolve()
    grid_file = grid or place.with_name(f"{place.name}-grid.png")
    if grid_file.resolve().parent == place:
        raise ValueError(f"--grid {grid_file} is among the pictures, where it would count as one; name another place")
    require_own(out)
    require_driver(device)

    from fpd_core.devices import device_called, in_words
    from fpd_core.generator import load_generator

    where = device_called(device)
    generator = load_generator(ckpt)
    if temperature is not None:
        generator = generator.at_temperature(temperature)
    if steps is not None:
        generator = generator.sampled(steps=steps)
    # A wrong request is answered before the folder is made; prompts are not all encoded for that.
    generator.model.condition(wanted[:1] if isinstance(wanted[0], str) else wanted)
    each = len(pictures) // len(wanted)
    settings = {
        "student": fingerprint(generator),
        **generator.generation.model_dump(mode="json"),
        "device": where.type,
        "prompts or classes": wanted,
        "seeds": named if named is not None else {"seed": seed or 0, "n": each},
    }
    claim(out, settings, pictures)
    generator.to(where)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    errors.print(f"device: {in_words(where)}", markup=False)
    with bars(errors)("drawing", len(pictures)) as advance:
        drawn = draw(generator, pictures, out, advance)
    shown = write_grid(pictures, out, grid_file, each)
    old = f", {len(pictures) - drawn} of them from before" if drawn < len(pictures) else ""
    which = "all of them" if shown == len(pictures) else f"the first {shown}"
    print(f"{len(pictures)} images in {out}{old}; {which} in {grid_file}")


def _wanted(prompt: list[str], prompts: Path | None, classes: list[int]) -> list[str] | list[int]:
    """What to draw, in order. Raises ValueError: nothing, two kinds of things, or a file with a blank line."""
    if sum((bool(prompt), prompts is not None, bool(classes))) != 1:
        raise ValueError("give either --prompt or --class, once or more often, or --prompts with a file")
    if prompts is None:
        return prompt or classes
    from fpd_core.untrusted import read_text

    lines = read_text(prompts, limit=PROMPT_BYTES, name="PROMPT_BYTES").removesuffix("\n").split("\n")
    blank = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
    if blank is not None:
        raise ValueError(f"{prompts}: line {blank} holds no prompt")
    return [line.strip() for line in lines]


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
