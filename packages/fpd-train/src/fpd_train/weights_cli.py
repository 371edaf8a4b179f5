"""`fpd-train weights pull`: how published files get here.

Torch is imported inside commands, so that help is instant.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from fpd_core.checkpoints import CheckpointError
    from fpd_core.weights import WeightFile

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
            console.print(f"{file.local} is there ({gigabytes(file.local.stat().st_size)})")
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


def gigabytes(size: int) -> str:
    """For people: `1.21 GB`."""
    return f"{size / 1e9:.2f} GB"
