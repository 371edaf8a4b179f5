"""`fpd-train doctor`: what a run needs and what of it is here.

Torch is imported inside the command, so that help is instant.
"""

from __future__ import annotations

import json
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
    from fpd_core.plugins import summary
    from fpd_core.weights import missing
    from fpd_train.config import load_config
    from fpd_train.preflight import missing_data, sources, weight_files

    loaded = load_config(config, set_)
    files = weight_files(loaded)
    lacks = {str(getattr(one, "folder", one.name)): missing_data(one) for one in sources(loaded)}
    if as_json:
        data = [_data_record(place, lack) for place, lack in lacks.items() if place != loaded.data.name]
        print(json.dumps([*map(_record, files), *data], indent=2))
    else:
        _show(files, config)
        for place, lack in lacks.items():
            print(f"missing  data: {lack}" if lack else f"present  data: {place}")
        _show_rest(loaded)
        print(summary(), end="")
    if missing(files) or any(lacks.values()):
        raise typer.Exit(1)


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


def _show(files: list[RequiredFile], config: Path) -> None:
    from fpd_core.weights import missing, pulls

    if not files:
        print(f"{config} needs no published weight files.")
        return
    for file in files:
        published = file.file
        state = "present" if file.present else "missing"
        print(
            f"{state}  {file.path}: {published.family} {published.role}, {_size(file)}; "
            f"huggingface.co/{published.repo_id}: {published.filename}; {published.licence}"
        )
    absent = missing(files)
    if not absent:
        print(f"All {len(files)} files are there.")
        return
    print(f"{len(absent)} of {len(files)} missing. Run {pulls(absent)}, or put them there yourself.")


def _show_rest(config: TrainConfig) -> None:
    from fpd_core.devices import device_called, in_words
    from fpd_core.preflight import require_writable
    from fpd_train.memory import estimate

    try:
        print(f"device {config.device}: {in_words(device_called(config.device))}")
    except ValueError as error:
        print(f"device: {error}")
    for line in estimate(config):
        print(line)
    try:
        require_writable(config.output)
        print(f"output: {config.output} can be written")
    except ValueError as error:
        print(f"output: {error}")


def _size(file: RequiredFile) -> str:
    known, parameters = file.size or file.file.size_bytes, file.file.num_parameters
    if known is not None:
        return gigabytes(known)
    return "unknown" if parameters is None else f"at least {gigabytes(parameters * BYTES_PER_FLOAT32)} in float32"
