"""The training loop: one function, in the order of time, knowing no method by name."""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import torch

from fpd_core.config import ConfigError
from fpd_train.batch import Batch
from fpd_train.card import model_card
from fpd_train.checkpointing import Checkpoints
from fpd_train.config import RESOLVED, TrainConfig
from fpd_train.data import open_stream
from fpd_train.ema import Ema
from fpd_train.engine import Engine, any_rank, barrier, start_processes, stop_processes
from fpd_train.errors import Interrupted
from fpd_train.methods import build_method
from fpd_train.methods.interface import Method, Parts, Report
from fpd_train.runlog import RunLog
from fpd_train.seeds import seeded

# These may differ between a run and its continuation; everything else must not. A new number of steps trains on or ends
# earlier; a cosine schedule then follows the new horizon from there.
OPERATIONAL = {"steps", "output", "device", "log_every", "sample_every", "save_every", "keep_checkpoints", "resume"}

DONE = "done.json"


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a flag that the loop honours between steps; the second one kills."""

    def __init__(self) -> None:
        self.raised = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True
        signal.signal(number, signal.SIG_DFL)


@dataclass(frozen=True)
class Run:
    """Everything one run holds: its configuration, its place among the ranks and its networks in training."""

    config: TrainConfig
    rank: int
    world: int
    device: torch.device
    method: Method
    engines: dict[str, Engine]
    emas: dict[str, Ema]
    updates: dict[str, int]
    checkpoints: Checkpoints

    @property
    def averaged(self) -> dict[str, torch.nn.Module]:
        return {name: ema.module for name, ema in self.emas.items()}

    def save(self, step: int) -> None:
        self.checkpoints.save(step, self.updates, self.engines, self.emas)

    def grid(self) -> torch.Tensor:
        return self.method.grid(self.averaged, seeded("grid", self.config.seed, device=self.device))


def run(config: TrainConfig, command: str) -> None:
    """Train, checkpoint and export as `config` says. Repeating a finished run says so; an interrupted one continues.

    Args:
        command: how the user started this, for messages and the model card.

    Raises:
        ConfigError, CheckpointError, DataError, ValueError: one sentence for the user.
        Interrupted: a signal asked the run to stop; everything is saved.
    """
    stop = StopRequest()
    rank, world, device = start_processes(config.device)
    try:
        checkpoints = Checkpoints(config.output / "checkpoints", config.keep_checkpoints)
        start = _prepare_folder(config, checkpoints, rank)
        if start == config.steps and (config.output / DONE).exists():
            if rank == 0:
                print(f"{config.output} is done ({start} steps); raise steps to train on, or choose another output")
            return
        state = _build(config, rank, world, device, checkpoints, start)
        with RunLog(config.output, active=rank == 0, start=start, steps=config.steps, title=config.output.name) as log:
            if start:
                log.say(f"resuming {config.output} at step {start}")
            train(state, _stream(state, start), log, stop, start)
            _finish(state, log, command)
    finally:
        stop_processes()


def train(run: Run, batches: Iterator[Batch], log: RunLog, stop: StopRequest, start: int) -> None:
    """Optimise until `config.steps`. Restarting with the same configuration continues exactly.

    Raises:
        Interrupted: after saving, when any rank was asked to stop.
    """
    config, method = run.config, run.method
    images_per_step = config.micro_batch * config.engine.accumulation * run.world
    for step in range(start, config.steps):
        began = time.perf_counter()
        batch = [next(batches) for _ in range(config.engine.accumulation)]
        numbers: Report = {}
        for phase in method.phases(step):
            engine = run.engines[phase]
            for micro, part in enumerate(batch):
                generator = seeded(phase, config.seed, run.rank, step, micro, device=run.device)
                loss, report = method.loss(phase, part, {phase: engine}, generator)
                applied = engine.update(loss)
            if applied:
                run.emas[phase].update(run.updates[phase], engine.masters(), engine.buffers())
                run.updates[phase] += 1
            numbers |= report | engine.stats()
        done = step + 1
        numbers["images_per_second"] = images_per_step / (time.perf_counter() - began)
        log.step(done, done * images_per_step, numbers, write=done % config.log_every == 0 or done == config.steps)
        stopping = any_rank(stop.raised, run.device)
        if done % config.sample_every == 0 or done == config.steps:
            log.grid(done, run.grid())
        if done % config.save_every == 0 or done == config.steps or stopping:
            run.save(done)
        if stopping and done < config.steps:
            raise Interrupted(f"stopped at step {done} of {config.steps}; nothing is lost")


def _prepare_folder(config: TrainConfig, checkpoints: Checkpoints, rank: int) -> int:
    """The step to start from; writes the resolved configuration on a fresh run."""
    path = config.output / RESOLVED
    start = checkpoints.latest()
    if start is not None and config.resume == "never":
        raise ConfigError(f"{config.output} already holds a run at step {start}; choose another output or resume=auto")
    resolved = config.model_dump(mode="json")
    if start is not None:
        if start > config.steps:
            raise ConfigError(f"{config.output} is already at step {start}, beyond steps={config.steps}")
        earlier = json.loads(path.read_text())
        changed = [k for k in resolved if k not in OPERATIONAL and resolved[k] != earlier.get(k)]
        if changed:
            raise ConfigError(
                f"{config.output} holds a run with other settings ({', '.join(changed)}); choose another output "
                "(--set output=...) or give the settings it was started with"
            )
    if rank == 0:
        try:
            config.output.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(resolved, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write the run folder {config.output}: {error.strerror}") from None
    return start or 0


def _build(
    config: TrainConfig, rank: int, world: int, device: torch.device, checkpoints: Checkpoints, start: int
) -> Run:
    torch.manual_seed(config.seed)  # initial weights of networks that start from scratch
    method = build_method(config.method, Parts(device, world, config.seed, config.engine.precision == "bfloat16"))
    # Copied before the engines exist: ZeRO-3 leaves empty parameters behind.
    emas = {name: Ema(network, config.ema) for name, network in method.networks.items()}
    engines = {
        name: Engine(network, config.engine, config.optimizer, micro_batch=config.micro_batch, steps=config.steps)
        for name, network in method.networks.items()
    }
    updates = checkpoints.restore(start, engines, emas) if start else dict.fromkeys(engines, 0)
    return Run(config, rank, world, device, method, engines, emas, updates, checkpoints)


def _stream(run: Run, start: int) -> Iterator[Batch]:
    config = run.config
    stream = open_stream(
        config.data,
        batch_size=config.micro_batch // run.method.drafts_per_condition,
        seed=config.seed,
        rank=run.rank,
        world=run.world,
        start=start * config.engine.accumulation,
    )
    return (batch.to(run.device) for batch in stream)


def _finish(run: Run, log: RunLog, command: str) -> None:
    """Measure and export. The quality is measured by rank 0 alone: the averaged networks are whole on every rank."""
    barrier()
    if run.rank != 0:
        return
    config = run.config
    quality: Report = {}
    if config.validation is not None:
        log.say("measuring quality")
        validation = open_stream(config.validation, batch_size=config.micro_batch, seed=0, rank=0, world=1, start=0)
        quality = run.method.quality(run.averaged, (batch.to(run.device) for batch in validation))
    folder = config.output / run.method.product
    run.method.export(folder, run.averaged, model_card(config, command, run.world, quality))
    (config.output / DONE).write_text(json.dumps({"steps": config.steps, "quality": quality}) + "\n")
    figures = "  ".join(f"{name} {value:.4g}" for name, value in quality.items())
    log.say(f"exported {folder}  {figures}")
