"""`fpd-train doctor` and `fpd-train weights pull`: which published files a run needs, and how they get here.

Torch is imported inside commands, so that help is instant.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from fpd_core.checkpoints import CheckpointError
    from fpd_core.weights import RequiredFile, WeightFile

BYTES_PER_FLOAT32 = 4

weights_app = typer.Typer(help="Published weight files.", no_args_is_help=True)


@weights_app.callback()
def _weights() -> None:
    """Published weight files."""


@weights_app.command("pull")
def pull_command(
    family: Annotated[str, typer.Argument(help="maskgit, halton, maskgen, meissonic, dinov3, deit or mask2former.")],
    roles: Annotated[
        list[str] | None, typer.Argument(help="Only these files, such as small_384 of halton or transformer_xl.")
    ] = None,
) -> None:
    """Download the files of a family from where they are published to where the configs expect them.

    Other sizes than the family's own are fetched by role; `fpd-train doctor` says which a config needs. Files already
    there are kept; an interrupted download continues.
    """
    from fpd_core.weights import WEIGHT_FILES, weight_file

    published = WEIGHT_FILES.find(family)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for file in [weight_file(family, role) for role in roles] if roles else published:
        if file.local.is_file():
            console.print(f"{file.local} is there ({_gigabytes(file.local.stat().st_size)})")
            continue
        console.print(f"{file.local} <- {file.repo_id}: {file.filename}; licence: {file.licence}")
        fetch(file)


def fetch(file: WeightFile) -> None:
    """Download one file to `file.local`, which appears whole or not at all.

    Raises:
        CheckpointError: no network, a licence not accepted, or the hub no longer has the file.
    """
    if file.address:
        _fetch_address(file)
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2, by its version

    staging = file.local.parent / ".download" / file.repo_id.replace("/", "--")
    try:
        # Asked first, because hf_hub_download retries for half a minute where there is no network.
        get_hf_file_metadata(hf_hub_url(file.repo_id, file.filename))
        fetched = hf_hub_download(file.repo_id, file.filename, local_dir=staging)
    except (HTTPError, OSError, ValueError) as error:
        raise _explained(file, error) from None
    Path(fetched).replace(file.local)
    shutil.rmtree(staging)


def _fetch_address(file: WeightFile) -> None:
    """From another place than the hub, in one go, checked against the digest that its name ends with."""
    import hashlib
    import urllib.request

    from fpd_core.checkpoints import CheckpointError

    file.local.parent.mkdir(parents=True, exist_ok=True)
    partial = file.local.with_name(f"{file.local.name}.part")
    try:
        with urllib.request.urlopen(file.address, timeout=60) as response, partial.open("wb") as out:
            shutil.copyfileobj(response, out)
        with partial.open("rb") as done:
            digest = hashlib.file_digest(done, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"cannot download {file.address}: pull again, or fetch it elsewhere and put it at {file.local} ({error})"
        ) from None
    if not digest.startswith(file.local.stem.rpartition("-")[2]):
        partial.unlink()
        raise CheckpointError(
            f"{file.address} was damaged on its way: its SHA-256 starts with {digest[:8]}; pull again"
        )
    partial.replace(file.local)


def _explained(file: WeightFile, error: Exception) -> CheckpointError:
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    from fpd_core.checkpoints import CheckpointError

    what = f"{file.filename} of huggingface.co/{file.repo_id}"
    match error:
        case GatedRepoError():
            why = f"its licence has to be accepted: open {file.url}, accept, run `hf auth login`, then pull again"
        case RepositoryNotFoundError():
            why = "the repository is not public or no longer there; if it asks for a login, run `hf auth login`"
        case EntryNotFoundError() if isinstance(error, HfHubHTTPError):
            why = "the repository no longer holds this file"
        case HfHubHTTPError() | PermissionError():
            why = "pull again to continue"
        case _:
            why = f"no connection; pull again to continue, or fetch the file elsewhere and put it at {file.local}"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(f"cannot download {what}: {why} ({reason})")


def doctor_command(
    config: Annotated[Path, typer.Option("--config", help="A JSON file such as configs/maskgit.json.")],
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one value.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List every published file a run needs: present or not, size, source, place. Exit code 1 if one is missing."""
    from fpd_core.plugins import summary
    from fpd_core.weights import missing
    from fpd_train.config import load_config

    method = load_config(config, set_).method
    files = method.required_files() if hasattr(method, "required_files") else []
    if as_json:
        print(json.dumps([_record(file) for file in files], indent=2))
    else:
        _show(files, config)
        print(summary(), end="")
    if missing(files):
        raise typer.Exit(1)


def _record(file: RequiredFile) -> dict[str, object]:
    published = file.file
    return {
        "path": str(file.path),
        "present": file.present,
        "size_bytes": file.size,
        "family": published.family,
        "role": published.role,
        "repo_id": published.repo_id,
        "filename": published.filename,
        "url": published.url,
        "published_bytes": published.size_bytes,
        "num_parameters": published.num_parameters,
        "licence": published.licence,
        "note": published.note,
    }


def _show(files: Sequence[RequiredFile], config: Path) -> None:
    from fpd_core.weights import missing, pulls

    # A pipe has no width, and a cut path helps nobody.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)
    if not files:
        console.print(f"{config} needs no published weight files.")
        return
    table = Table("put it at", "what", "state", "size", "published at huggingface.co", "licence")
    for file in files:
        published = file.file
        table.add_row(
            str(file.path),
            f"{published.family} {published.role}",
            "[green]present[/]" if file.present else "[red]missing[/]",
            _size(file),
            f"{published.repo_id}: {published.filename}",
            published.licence,
        )
    console.print(table)
    absent = missing(files)
    if not absent:
        console.print(f"All {len(files)} files are there.")
        return
    console.print(f"{len(absent)} of {len(files)} missing. Run {pulls(absent)}, or put them there yourself.")


def _size(file: RequiredFile) -> str:
    known, parameters = file.size or file.file.size_bytes, file.file.num_parameters
    if known is not None:
        return _gigabytes(known)
    return "unknown" if parameters is None else f"at least {_gigabytes(parameters * BYTES_PER_FLOAT32)} in float32"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
