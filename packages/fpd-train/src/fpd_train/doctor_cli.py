"""`fpd-train doctor`: what a run needs and what of it is here, said without torch wherever that can be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpd_train.weights_cli import gigabytes

if TYPE_CHECKING:
    from fpd_core.weights import RequiredFile
    from fpd_train.config import TrainConfig

BYTES_PER_FLOAT32 = 4


def doctor_command(
    config: Annotated[Path, typer.Option("--config", help="A JSON file such as configs/maskgit.json.")],
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one value.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List what a run needs: published weights with size, source and place, data, memory, device, run folder.

    Exit code 1 if something is missing.
    """
    from fpd_train.torchless import without_torch

    said, is_complete = without_torch(lambda: _examined(config, set_, as_json=as_json))
    print(said)
    if not is_complete:
        raise typer.Exit(1)


def _examined(config: Path, overrides: list[str], *, as_json: bool) -> tuple[str, bool]:
    """What there is to say, and whether nothing is missing."""
    from fpd_core.plugins import records, summary
    from fpd_core.weights import missing
    from fpd_train.config import load_config
    from fpd_train.preflight import missing_data, sources, weight_files

    loaded = load_config(config, overrides)
    files = weight_files(loaded)
    lacks = {str(getattr(one, "folder", one.name)): missing_data(one) for one in sources(loaded)}
    is_complete = not (missing(files) or any(lacks.values()))
    if as_json:
        shards = [_data_record(place, lack) for place, lack in lacks.items() if place != loaded.data.name]
        return json.dumps([*map(_record, files), *shards, *records()], indent=2), is_complete
    data = [f"missing  data: {lack}" if lack else f"present  data: {place}" for place, lack in lacks.items()]
    return "\n".join([*_files(files, config), *data, *_rest(loaded), *summary().splitlines()]), is_complete


def _data_record(place: str, lack: str | None) -> dict[str, object]:
    return {"path": place, "present": lack is None, "family": "data", "role": "shards", "note": lack or ""}


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


def _files(files: list[RequiredFile], config: Path) -> Iterator[str]:
    from fpd_core.weights import missing, pulls

    if not files:
        yield f"{config} needs no published weight files."
        return
    for file in files:
        published = file.file
        state = "present" if file.present else "missing"
        yield (
            f"{state}  {file.path}: {published.family} {published.role}, {_size(file)}; "
            f"huggingface.co/{published.repo_id}: {published.filename}; {published.licence}"
        )
    absent = missing(files)
    if not absent:
        yield f"All {len(files)} files are there."
        return
    yield f"{len(absent)} of {len(files)} missing. Run {pulls(absent)}, or put them there yourself."


def _rest(config: TrainConfig) -> Iterator[str]:
    from fpd_core.devices import described
    from fpd_core.preflight import require_writable
    from fpd_train.memory import estimate

    try:
        yield f"device {config.device}: {described(config.device)}"
    except ValueError as error:
        yield f"device: {error}"
    yield from estimate(config)
    try:
        require_writable(config.output)
        yield f"output: {config.output} can be written"
    except ValueError as error:
        yield f"output: {error}"


def _size(file: RequiredFile) -> str:
    known, parameters = file.size or file.file.size_bytes, file.file.num_parameters
    if known is not None:
        return gigabytes(known)
    return "unknown" if parameters is None else f"at least {gigabytes(parameters * BYTES_PER_FLOAT32)} in float32"
