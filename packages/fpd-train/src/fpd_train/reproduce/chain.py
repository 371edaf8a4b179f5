"""The runs of a row at one seed, one stage after the other. What is done is not done again."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from fpd_core.atomic import write_text
from fpd_core.checkpoints import WEIGHTS
from fpd_core.config import Config
from fpd_core.untrusted import read_json
from fpd_train.config import TrainConfig, load_config
from fpd_train.methods.teacher_samples import REFERENCE
from fpd_train.reproduce.declared import Pairs, Row, Stage
from fpd_train.reproduce.processes import Failed, Processes
from fpd_train.run_folder import decisive

CADENCES = {"log_every": 5, "sample_every": 10**6, "save_every": 200, "keep_checkpoints": 1}
TAKEN = "taken.json"


class Taken(Config):
    """What a finished stage took."""

    updates: int
    seconds_per_update: float
    pairs_seconds: float
    peak_memory: int


@dataclass
class Chain:
    """A row at one seed and learning rate. `updates` and `seconds` exclude each other: one is the budget."""

    row_name: str
    row: Row
    seed: int
    rate_factor: float
    out: Path
    device: str = "cpu"
    updates: int | None = None
    seconds: float | None = None
    known: Sequence[Taken] = ()  # of the same stages in another run, for a budget of seconds
    folders: list[Path] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    reason: str = ""

    @property
    def name(self) -> str:
        budget = f"{self.updates} updates" if self.updates is not None else f"{self.seconds:.0f} s"
        return f"{self.row_name}, seed {self.seed}, rate x{self.rate_factor:g}, {budget}"

    def perform(self, processes: Processes) -> str:
        """Train all stages; what they took, in words. Raises Failed, ConfigError."""
        self.folders, self.taken = [], []
        for place, stage in enumerate(self.row.stages):
            folder, taken = self._stage(place, stage, processes)
            self.folders.append(folder)
            self.taken.append(taken)
        return ", ".join(f"{one.updates} updates of {one.seconds_per_update:.2f} s" for one in self.taken)

    def students(self) -> dict[str, Path]:
        """Folders by name of the table's row."""
        found = {f"{self.row_name}{added}": self.folders[-1] / name for name, added in self.row.students.items()}
        shown = zip(self.row.stages, self.folders, strict=True)
        return {stage.shown_as: folder / "student" for stage, folder in shown if stage.shown_as} | found

    def _steps(self, place: int, stage: Stage) -> int:
        """Optimizer steps of a stage; its pairs and those of the other stages are paid from the seconds."""
        if self.updates is not None:
            total = self.updates * stage.share
        else:
            assert self.seconds is not None
            paid = sum(one.pairs_seconds for one in self.known)
            left = self.seconds - paid
            if left <= 0:
                raise Failed(f"its pairs alone take {paid:.0f} of {self.seconds:.0f} s")
            total = left * stage.share / self.known[place].seconds_per_update
        return max(1, round(total / self.row.rounds)) * self.row.rounds

    def _stage(self, place: int, stage: Stage, processes: Processes) -> tuple[Path, Taken]:
        steps = self._steps(place, stage)
        sets: dict[str, Any] = self.row.overrides | CADENCES | {"seed": self.seed, "output": str(self.out)}
        sets |= {"device": self.device}
        sets |= {"steps": steps} | ({self.row.round_key: steps // self.row.rounds} if self.row.round_key else {})
        sets["optimizer.lr"] = load_config(stage.config).optimizer.lr * self.rate_factor
        drawn = (Path(), 0.0)
        if stage.pairs is not None:
            drawn = self._draw(stage.pairs, processes)
            sets |= {"data.folder": str(drawn[0])}
        if place:
            sets["method.start"] = str(self.folders[-1] / "student")
        config = load_config(stage.config, [f"{key}={json.dumps(value)}" for key, value in sets.items()])
        folder = self.out / digest(decisive(config) | {"steps": config.steps})
        record = folder / TAKEN
        if record.is_file() and (folder / "student" / WEIGHTS).is_file():
            return folder, Taken.model_validate(read_json(record))
        found = self._train(config.model_copy(update={"output": folder}), drawn[1], processes)
        write_text(record, found.model_dump_json() + "\n")
        return folder, found

    def _train(self, config: TrainConfig, pairs_seconds: float, processes: Processes) -> Taken:
        wanted, shared = config.output.with_suffix(".json"), self.out / REFERENCE
        config.output.mkdir(parents=True, exist_ok=True)
        write_text(wanted, config.model_dump_json(indent=2) + "\n")
        if shared.is_file():  # the teacher's samples are the same in every run that asks for them
            shutil.copy(shared, config.output)
        ended = processes.call(["fpd-train", "run", "--config", str(wanted)], config.output.with_suffix(".log"))
        if (config.output / REFERENCE).is_file():
            shutil.copy(config.output / REFERENCE, shared)
        return Taken(
            updates=config.steps,
            seconds_per_update=seconds_per_update(config.output, config.steps),
            pairs_seconds=pairs_seconds,
            peak_memory=ended.peak_memory,
        )

    def _draw(self, pairs: Pairs, processes: Processes) -> tuple[Path, float]:
        """(folder, seconds) of the pairs that the student of the stage before draws."""
        student = self.folders[-1] / "student"
        asked = pairs.model_dump(mode="json") | {"student": str(student), "seed": self.seed}
        folder = self.out / f"pairs-{digest(asked)}"
        record = folder.with_suffix(".json")
        if record.is_file():
            return folder, float(read_json(record)["seconds"])
        command = ["fpd-train", "shards", "pairs", "--student", str(student), "--out", str(folder)]
        options = {
            "count": pairs.count,
            "steps": pairs.steps,
            "guidance-scale": pairs.guidance_scale,
            "seed": self.seed,
        }
        command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
        shutil.rmtree(folder, ignore_errors=True)  # of a killed command: the seconds of all pairs count
        ended = processes.call([*command, "--device", self.device, "--json"], folder.with_suffix(".log"))
        seconds = float(json.loads(ended.text)["seconds"])
        write_text(record, json.dumps(asked | {"seconds": seconds}) + "\n")
        return folder, seconds


def digest(said: Any) -> str:
    """Twelve hexadecimal digits of what says which run this is."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def seconds_per_update(run: Path, steps: int) -> float:
    """Median over the log lines of a run on one process.

    Raises:
        ValueError: the log has no line with a speed.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.strip()]
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    if not speeds:
        raise ValueError(f"{run / 'metrics.jsonl'} says no speed")
    return float(lines[-1]["images_seen"] / lines[-1]["step"] / median(speeds))
