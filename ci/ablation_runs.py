"""What `ablations.json` declares, as runs: one resolved configuration each, found again by what it says."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from fpd_core.atomic import write_text
from fpd_core.checkpoints import WEIGHTS
from fpd_core.config import Config, ConfigError, explain
from fpd_core.untrusted import UntrustedError, read_json
from fpd_eval.report.columns import Better
from fpd_train.config import TrainConfig, load_config, parse
from fpd_train.reproduce.processes import Processes
from fpd_train.run_folder import decisive

ROWS = Path(__file__).with_name("ablations.json")
TABLES = ("table1", "table3", "table4", "recipe", "masked", "distance")
WORLDS = ("fashion", "scenes")
CADENCES = {"sample_every": 10**6, "save_every": 50, "keep_checkpoints": 1}
MEASURED = "measured.json"
Overrides = dict[str, Any]


class World(Config):
    """Where runs of a world start from, and which measured values judge them."""

    config: Path
    judged: dict[str, Better]
    teacher: str
    teacher_steps: dict[str, tuple[int, ...]]  # by table; "" is any other
    seconds_per_step: float  # on one core, as the seconds to measure; the runs that are done know better
    seconds_to_measure: float


class Ordering(Config):
    """What the paper finds: `paper` its numbers, which never stand in a column of ours."""

    better: str
    worse: str
    paper: str
    source: str


class Table(Config):
    """Rows are overrides by name, of the world's config or of the one named here for a world; the first one is the
    recipe. `use` names shared overrides."""

    title: str
    config: dict[str, Path] = Field(default_factory=dict)
    rows: dict[str, Overrides]
    orderings: tuple[Ordering, ...]


class Declared(Config):
    """The whole file. A shared set of overrides may differ by world."""

    worlds: dict[str, World]
    shared: dict[str, dict[str, Any]]
    tables: dict[str, Table]

    def start(self, world: str, table: str) -> World:
        """The world as a table starts in it."""
        found = self.worlds[world]
        return found.model_copy(update={"config": self.tables[table].config.get(world, found.config)})

    def overrides(self, row: Overrides, world: str) -> Overrides:
        """A row's own values stand over those that it uses."""
        found: Overrides = {}
        for name in row.get("use", ()):
            found |= self.shared[name].get(world, {k: v for k, v in self.shared[name].items() if k not in self.worlds})
        return found | {key: value for key, value in row.items() if key != "use"}


def read_declared(path: Path = ROWS) -> Declared:
    """Raises ConfigError: the file is damaged."""
    try:
        return Declared.model_validate(read_json(path, error=ConfigError))
    except ValidationError as error:
        raise explain(error, str(path)) from None


@dataclass
class Run:
    """One row at one seed. `reason` says why there are no `values`; `ready` is a student that is only measured."""

    row: str
    seed: int
    config: TrainConfig | None = None
    folder: Path = Path()
    values: dict[str, float] | None = None
    reference: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""
    ready: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"

    @property
    def can_start(self) -> bool:
        return self.config is not None or self.ready is not None

    @property
    def student(self) -> Path:
        return self.ready or self.folder / "student"


def finished(row: str, number: int, student: Path, out: Path) -> Run:
    """A row's finished student; its measurement is found again by its weights. Raises ValueError: it is none."""
    weights = student / WEIGHTS
    if not weights.is_file():
        raise ValueError(f"--ready {row!r}: {student} is no finished student, {weights} does not exist")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Run(row, number, folder=out / f"ready-{digest[:12]}", ready=student)


def resolve(
    row: str, seed: int, overrides: Overrides, world: World, steps: int | None, out: Path, device: str = "cpu"
) -> Run:
    """The run of a row; its folder is the one whose `config.json` is this run, or a new one named by its hash."""
    sets = overrides | {"seed": seed, "output": str(out), "device": device} | CADENCES
    sets |= {"steps": steps} if steps else {}
    try:
        config = load_config(world.config, [f"{key}={json.dumps(value)}" for key, value in sets.items()])
    except ConfigError as error:
        return Run(row, seed, reason=str(error).splitlines()[0])
    folder = next((path.parent for path in sorted(out.glob("*/config.json")) if _is(path, config)), None)
    if folder is None:
        folder = out / hashlib.sha256(json.dumps(_decisive(config), sort_keys=True).encode()).hexdigest()[:12]
    return Run(row, seed, config.model_copy(update={"output": folder}), folder)


def _decisive(config: TrainConfig) -> dict[str, Any]:
    return decisive(config) | {"steps": config.steps}


def _is(path: Path, config: TrainConfig) -> bool:
    """Whether an earlier run's settings, with today's defaults for fields that are newer, are those of `config`."""
    try:
        return _decisive(parse(read_json(path), str(path))) == _decisive(config)
    except (ConfigError, UntrustedError):
        return False


def recall(run: Run, settings: dict[str, Any]) -> bool:
    """Take the values of an earlier measurement with the same settings; whether there was one."""
    path = run.folder / MEASURED
    if not run.can_start or not path.is_file():
        return False
    try:
        stored = read_json(path)
    except UntrustedError:
        return False
    if stored.get("settings") != settings:
        return False
    run.values, run.reference, run.seconds = stored["values"], stored["reference"], stored["seconds"]
    return True


def perform(run: Run, world: str, settings: dict[str, Any], processes: Processes, cache: Path) -> str:
    """Train, unless the student is ready, and measure; how long it took. Raises Failed."""
    began = time.monotonic()
    if run.config is not None:
        wanted = run.folder.with_suffix(".json")
        wanted.parent.mkdir(parents=True, exist_ok=True)
        write_text(wanted, run.config.model_dump_json(indent=2) + "\n")
        processes.call(["fpd-train", "run", "--config", str(wanted)], run.folder.with_suffix(".log"))
    student = {"kind": "student", "name": "student", "folder": str(run.student)}
    run.values, run.reference = measure(student, run.folder, world, settings, processes, cache)
    run.seconds = time.monotonic() - began
    record = {"settings": settings, "values": run.values, "reference": run.reference, "seconds": run.seconds}
    write_text(run.folder / MEASURED, json.dumps(record, indent=2) + "\n")
    return f"done in {run.seconds / 60:.1f} min"


def measure(
    system: dict[str, Any], place: Path, world: str, settings: dict[str, Any], processes: Processes, cache: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """(values, values of the real images) of a system of fpd-eval. Raises Failed."""
    section, log = place / "system.json", place.with_suffix(".log")
    place.mkdir(parents=True, exist_ok=True)
    write_text(section, json.dumps(system) + "\n")
    if world == "scenes":
        command = [
            "fpd-eval",
            "geneval",
            "--suite",
            "scenes",
            "--system",
            str(section),
            "--out",
            str(place / "geneval"),
        ]
        options = ["--samples", str(settings["samples"]), "--json"]
        scores = json.loads(processes.call(command + options, log).text)[0]["scores"]
        tasks = {TASKS[tag]: task["score"] for tag, task in scores["tasks"].items()}
        return tasks | {"geneval_overall": scores["overall"]}, {}
    command = ["fpd-eval", "compare", "--systems", str(section), "--num-images", str(settings["num_images"])]
    options = ["--json", "--cache-dir", str(cache), "--out", str(place / "report")]
    found = json.loads(processes.call(command + options, log).text)
    return found["rows"][0]["values"], found["reference"]["values"]


TASKS = {
    **{"single_object": "geneval_single", "two_object": "geneval_two", "counting": "geneval_counting"},
    **{"colors": "geneval_colors", "position": "geneval_position", "color_attr": "geneval_color_attr"},
}
