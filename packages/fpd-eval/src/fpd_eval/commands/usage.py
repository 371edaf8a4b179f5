"""What every command shares: mistakes of the user end in one sentence, options become config sections."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

Section = TypeVar("Section", bound="BaseModel")
DeviceOption = Annotated[str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda or cuda:N.")]
CacheOption = Annotated[Path, typer.Option("--cache-dir", help="Where features and numbers are kept.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
CardOption = Annotated[
    bool, typer.Option("--write-card", help="Also write the numbers into the model card of the student's folder.")
]
CACHE = Path(".cache/fpd-eval")
AUTO_BATCH = 32  # where `--batch-size auto` starts for the CLIP models; memory that runs out halves it


def look_first(device: str, *folders: Path | None) -> None:
    """Before anything is imported that takes seconds: is there a driver, can the folders be written?

    Raises:
        ConfigError: `device` is a GPU and there is no driver.
        ValueError: a folder cannot be written.
    """
    from fpd_core.devices import require_driver
    from fpd_core.preflight import require_writable

    require_driver(device)
    for folder in folders:
        if folder is not None:
            require_writable(folder)


def opened_device(name: str) -> "torch.device":
    """The device that `--device` names, said to whoever waits at a terminal; results say it again to everybody.

    Raises:
        ConfigError: it is not there.
    """
    from rich.console import Console

    from fpd_core.devices import device_called, in_words

    device, console = device_called(name), Console(stderr=True)
    if console.is_terminal:
        console.print(f"device: {in_words(device)}", markup=False, highlight=False, soft_wrap=True)
    return device


def require_images(folder: Path, *, made_here: bool) -> None:
    """Raises ValueError: there is no such folder, or, where images are made here, it cannot be written."""
    from fpd_core.preflight import require_writable

    if made_here:
        require_writable(folder)
    elif not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of images")


@contextmanager
def user_errors() -> Iterator[None]:
    """Mistakes of the user end in one sentence and exit code 2, Ctrl-C in one and 130; warnings take one line."""
    from rich.console import Console
    from rich.text import Text

    from fpd_core.untrusted import printable

    console = Console(stderr=True)

    def show_warning(message: Warning | str, *rest: object, **options: object) -> None:
        console.print(Text(f"warning: {printable(message)}", style="yellow"), soft_wrap=True)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            yield
            print(end="", flush=True)
    except BrokenPipeError:  # as in `| head`: nobody reads on, and what was found is in files
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(1) from None
    except (ValueError, OSError, MemoryError) as error:
        said = printable(error, keep="\n") or "the memory does not suffice"
        console.print(Text(f"error: {said}", style="red"), soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print(Text("interrupted; what was measured so far is kept in the cache"), soft_wrap=True)
        raise typer.Exit(130) from None


def given(section: type[Section], **values: Any) -> Section:
    """A config section from the options that were given; the others keep the section's defaults."""
    from pydantic import ValidationError

    from fpd_core.config import explain

    try:
        return section.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise explain(error, "options") from None


def batch_size_of(text: str) -> int | None:
    """`--batch-size auto|N` -> N, or None for auto. Raises ValueError: neither."""
    if text == "auto":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ValueError(f"--batch-size is auto or a positive number, got {text!r}")


def student_folder(ckpt: str, *, write_card: bool = False) -> Path:
    """The folder of `--ckpt`: itself, or where a repository of the hub was fetched to.

    Raises:
        CheckpointError: the hub did not give the repository.
        ValueError: its card is to be written, and only that of a folder can be.
    """
    from fpd_core.hub import is_repository, local_folder

    if write_card and is_repository(ckpt):
        raise ValueError(f"--write-card needs a folder, and {ckpt} is none here: fetch it with `hf download` first")
    return local_folder(ckpt)
