"""Checkpoints of a run: every engine and EMA under one step folder, verified before use, the pointer written last.

checkpoints/latest                  name of the newest checkpoint, SHA-256 of its manifest
checkpoints/step_000100/            appears by rename, complete
    manifest.json                   size and SHA-256 of every other file
    state.json                      step, updates, number of ranks
    student.ema.safetensors         the average
    NAME.remembered.safetensors     what else the method remembers
    student/*.pt                    weights, optimizer and schedule as DeepSpeed keeps them, tensors only
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial as bound
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NamedTuple

import safetensors.torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch import distributed as dist

from fpd_core import atomic
from fpd_core.checkpoints import load_strict
from fpd_core.config import Config, ConfigError, Count, Size, Whole, explain
from fpd_core.untrusted import open_regular, read_json
from fpd_train import manifest
from fpd_train.ema import Ema
from fpd_train.engine import Engine
from fpd_train.ranks import barrier, decided_by_rank_0, gather, share, together
from fpd_train.universal import check_stages

POINTER, STATE = "latest", "state.json"
NOTHING: Mapping[str, nn.Module] = MappingProxyType({})
NAME = re.compile(r"step_(\d{6,})")
Stage = Annotated[Whole, Field(ge=0, le=3)]


class State(Config):
    """What a checkpoint says of itself in `state.json`."""

    step: Count
    updates: dict[str, Count] = Field(description="Applied updates of each network.")
    world: Size = Field(description="Number of ranks.")
    zero_stage: Stage | None = Field(None, description="ZeRO stage of the engines; null: before it was noted.")
    batch: Size | None = Field(None, description="Images of all ranks in a step.")
    images_seen: Count | None = Field(None, description="Images of all steps so far: where the data goes on.")


@dataclass(frozen=True)
class Layout:
    """How a run is spread: number of ranks, ZeRO stage, images of all ranks in a step."""

    world: int
    zero_stage: int
    batch: int


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint that may be resumed from; `checksum` is what the pointer says of its manifest."""

    name: str
    checksum: str | None = None


class Checkpoints:
    """The checkpoint folder of a run. All but `exist` is collective; as text it says which is the last."""

    def __init__(self, folder: Path, keep: int, layout: Layout) -> None:
        self._folder, self._keep, self._layout = folder, keep, layout
        self.last: int | None = None  # step of the newest whole checkpoint, as far as this process knows

    def __str__(self) -> str:
        return "there is no checkpoint yet" if self.last is None else f"the last checkpoint is step {self.last}"

    def exist(self) -> bool:
        """Whether there is anything of a checkpoint, whole or not."""
        return (self._folder / POINTER).exists() or bool(self._names())

    def choose(self, named: str | None) -> tuple[int | None, list[str]]:
        """The step to resume from: of the checkpoint the pointer names, else of the newest that is whole.

        Args:
            named: take this checkpoint and no other, even one without a manifest.

        Returns:
            its step or None for an empty folder, and what the user should know.

        Raises:
            ValueError: there are checkpoints and none is whole.
        """
        candidates, remarks = decided_by_rank_0(lambda: self._candidates(named))
        for candidate in candidates:
            problem = self._problem(candidate, trusted=named is not None)
            if problem is None:
                self.last = _step(candidate.name)
                if remarks:
                    remarks = [*remarks, f"{self._folder / candidate.name} is taken instead"]
                return self.last, remarks
            remarks = [*remarks, problem]
        if remarks:
            raise ValueError(f"no checkpoint in {self._folder} is whole: {'; '.join(remarks)}")
        return None, []

    def save(
        self,
        step: int,
        updates: Mapping[str, int],
        engines: Mapping[str, Engine],
        emas: Mapping[str, Ema],
        remembered: Mapping[str, nn.Module] = NOTHING,
        *,
        images_seen: int,
    ) -> list[str]:
        """Write step `step`; a kill at any moment leaves the previous checkpoint in force.

        Args:
            images_seen: by all ranks in all steps so far.

        Returns:
            what the user should know of older checkpoints that were removed.

        Raises:
            OSError: on every rank, if any could not write; nothing of the step is left.
        """
        partial = self._folder / f".{_name(step)}{atomic.PARTIAL}"
        state = State(step=step, updates=dict(updates), images_seen=images_seen, **asdict(self._layout))
        try:
            decided_by_rank_0(lambda: _fresh(partial))
            written: list[Path] = []
            for name, engine in engines.items():
                written += together(lambda: engine.save(partial / name))  # noqa: B023  (called at once)
            tensors = {name: part.state() for name, part in _kept(emas, remembered).items()}
            written += together(lambda: _write_own(partial, state, tensors))
            # Each rank lists what it wrote itself: on network file systems others may see it only later.
            records = together(lambda: [manifest.record(partial, path) for path in written])
            everyones = [one for part in gather(records) for one in part]
            removed = decided_by_rank_0(lambda: self._publish(partial, step, everyones))
        except OSError:
            decided_by_rank_0(lambda: shutil.rmtree(partial, ignore_errors=True))
            raise
        self.last = step
        return removed

    def restore(
        self,
        step: int,
        engines: Mapping[str, Engine],
        emas: Mapping[str, Ema],
        remembered: Mapping[str, nn.Module] = NOTHING,
    ) -> tuple[State, str | None]:
        """Load step `step`, also of another number of ranks or, between 1 and 2, ZeRO stage.

        Returns:
            what the checkpoint says of itself, and what the user should know of it.

        Raises:
            ValueError: a ZeRO stage or batch that cannot go on, or a file that is damaged or holds more than tensors.
        """
        folder, now = self._folder / _name(step), self._layout
        state = together(lambda: _read_state(folder))
        stage = now.zero_stage if state.zero_stage is None else state.zero_stage
        check_stages(stage, now.zero_stage)
        if state.world == now.world and state.batch not in (None, now.batch):
            raise ValueError(
                f"{folder} is of a run with {state.batch} images in a step, now there are {now.batch}; set micro_batch "
                "or engine.accumulation as it was, or begin again in a new output folder"
            )
        kept, remark = _kept(emas, remembered), _change(state, stage, now)
        if remark is None or now.zero_stage == 0:  # without ZeRO every rank has everything
            together(lambda: _read_ahead(folder, engines, kept))
            for name, engine in engines.items():
                engine.load(folder / name)
            return state, remark
        converted = self._folder / f".{_name(step)}.universal{atomic.PARTIAL}"
        decided_by_rank_0(lambda: _convert(folder, converted, engines, stage))
        together(lambda: _read_ahead(folder, {}, kept))
        for name, engine in engines.items():
            engine.load_converted(converted / name)
        barrier()
        decided_by_rank_0(lambda: shutil.rmtree(converted, ignore_errors=True))
        return state, remark

    def _names(self) -> list[str]:
        """Names of the step folders, newest first. Steps are compared as numbers."""
        found = [path.name for path in self._folder.glob("step_*") if NAME.fullmatch(path.name)]
        return sorted(found, key=_step, reverse=True)

    def _candidates(self, named: str | None) -> tuple[list[_Candidate], list[str]]:
        names = self._names()
        if named is not None:
            if named not in names:
                raise ConfigError(f"{self._folder} holds no checkpoint {named!r}; there are: {', '.join(names)}")
            return [_Candidate(named)], []
        try:
            pointed = self._read_pointer()
        except ValueError as error:
            return [_Candidate(name) for name in names], [str(error)] if self.exist() else []
        # Folders ahead of the pointer are a future that was given up, or not announced before a kill: the last resort.
        behind = [name for name in names if _step(name) < _step(pointed.name)]
        ahead = [name for name in names if _step(name) > _step(pointed.name)]
        return [pointed, *(_Candidate(name) for name in behind + ahead)], []

    def _read_pointer(self) -> _Candidate:
        path = self._folder / POINTER
        try:
            name, *checksum = path.read_bytes()[:200].decode().split()
        except FileNotFoundError:
            raise ValueError(f"{path} is missing") from None
        except (OSError, ValueError):
            raise ValueError(f"{path} is damaged") from None
        if not NAME.fullmatch(name):
            raise ValueError(f"{path} is damaged: it does not name a checkpoint")
        return _Candidate(name, checksum[0] if checksum else None)

    def _problem(self, candidate: _Candidate, *, trusted: bool) -> str | None:
        """Why a checkpoint is not whole, None if it is; the ranks share the reading."""
        folder = self._folder / candidate.name
        if trusted and not (folder / manifest.MANIFEST).exists():
            return None
        try:
            listed = decided_by_rank_0(lambda: self._vouched(folder, candidate.checksum))
            together(lambda: manifest.verify(folder, share(listed.files)))
        except (ValueError, OSError) as error:
            return str(error)
        return None

    def _vouched(self, folder: Path, checksum: str | None) -> manifest.Manifest:
        if folder.is_dir() and not (folder / manifest.MANIFEST).exists():
            raise ValueError(
                f"{folder} has no {manifest.MANIFEST}, so nothing vouches for its files; "
                f"if you do, resume with --checkpoint {folder.name}"
            )
        return manifest.read(folder, checksum)

    def _publish(self, partial: Path, step: int, records: Sequence[manifest.FileRecord]) -> list[str]:
        checksum = manifest.write(partial, records)
        folder = self._folder / _name(step)
        shutil.rmtree(folder, ignore_errors=True)  # ahead of the pointer, so nothing depends on it
        partial.rename(folder)
        atomic.sync(self._folder)
        atomic.write_text(self._folder / POINTER, f"{folder.name}\n{checksum}\n")
        return self._prune(step)

    def _prune(self, step: int) -> list[str]:
        """Keep the checkpoint just written and those before it; what is ahead belongs to a future that was given up."""
        atomic.remove_partials(self._folder)
        names = self._names()
        ahead = [name for name in names if _step(name) > step]
        behind = [name for name in names if _step(name) < step]
        for name in ahead + behind[self._keep - 1 :]:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        return [f"removed {self._folder / name}, which was ahead of step {step}" for name in ahead]


def _name(step: int) -> str:
    return f"step_{step:06d}"


def _step(name: str) -> int:
    return int(name.removeprefix("step_"))


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


class _Kept(NamedTuple):
    """What rank 0 writes and all ranks read: tensors out, collectively, and in again from a named file."""

    state: Callable[[], dict[str, Tensor]]
    load: Callable[[dict[str, Tensor], str], None]


def _kept(emas: Mapping[str, Ema], remembered: Mapping[str, nn.Module]) -> dict[str, _Kept]:
    """By the first part of their file's name."""
    averages = {f"{name}.ema": _Kept(ema.state, ema.load) for name, ema in emas.items()}
    networks = {
        f"{name}.remembered": _Kept(network.state_dict, bound(load_strict, network))
        for name, network in remembered.items()
    }
    return averages | networks


def _write_own(folder: Path, state: State, kept: Mapping[str, Mapping[str, Tensor]]) -> list[Path]:
    """What rank 0 writes beside the engines' files; returns the paths."""
    if dist.get_rank() != 0:
        return []
    contents = {STATE: state.model_dump_json().encode()}
    for name, part in kept.items():
        tensors = {key: value.contiguous() for key, value in part.items()}
        contents[f"{name}.safetensors"] = safetensors.torch.save(tensors)
    for name, content in contents.items():
        atomic.write_bytes(folder / name, content)
    return [folder / name for name in contents]


def _read_state(folder: Path) -> State:
    path = folder / STATE
    try:
        return State.model_validate(read_json(path))
    except ValidationError as error:
        raise explain(error, str(path)) from None


def _change(state: State, stage: int, now: Layout) -> str | None:
    """What is new since the checkpoint was written."""
    if (state.world, stage) == (now.world, now.zero_stage):
        return None
    remark = f"its {state.world} rank(s) at ZeRO stage {stage} go on as {now.world} at stage {now.zero_stage}"
    return (
        remark
        if state.batch in (None, now.batch)
        else f"{remark}, with {now.batch} images in a step, not {state.batch}"
    )


def _convert(folder: Path, target: Path, engines: Mapping[str, Engine], stage: int) -> None:
    shutil.rmtree(target, ignore_errors=True)
    for name, engine in engines.items():
        engine.convert(folder / name, target / name, stage)


def _read_ahead(folder: Path, engines: Mapping[str, Engine], kept: Mapping[str, _Kept]) -> None:
    """Open this rank's files, so that damage is found before the ranks wait for each other."""
    for name, engine in engines.items():
        engine.read(folder / name)
    for name, part in kept.items():
        path = folder / f"{name}.safetensors"
        try:
            open_regular(path).close()
            part.load(safetensors.torch.load_file(path), str(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
