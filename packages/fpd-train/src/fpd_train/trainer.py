"""The training loop: one function, in the order of time, knowing no method by name."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import torch
from safetensors import SafetensorError
from torch import distributed as dist
from torch import nn

from fpd_core import atomic
from fpd_train.batch import Batch
from fpd_train.card import model_card
from fpd_train.checkpointing import Checkpoints
from fpd_train.config import TrainConfig
from fpd_train.data import open_stream
from fpd_train.data.reporting import bad_samples, left_out, same_data
from fpd_train.ema import Ema
from fpd_train.engine import Engine, start_processes
from fpd_train.errors import Interrupted, NonFiniteError, RankError
from fpd_train.methods import build_method
from fpd_train.methods.interface import (
    BatchCoupled,
    InRounds,
    Method,
    Monitored,
    NetworkSettings,
    Parts,
    Remembers,
    Report,
)
from fpd_train.nonfinite import first_non_finite
from fpd_train.ranks import barrier, decided_by_rank_0, is_lost_contact, largest, leave
from fpd_train.run_folder import Done, held_by_rank_0, starting_point, write_done
from fpd_train.runlog import RunLog
from fpd_train.seeds import seeded
from fpd_train.stopping import StopRequest
from fpd_train.watchdog import Watchdog


class Verdict(IntEnum):
    """What a rank wants after a step; the largest wish counts."""

    GO_ON = 0
    STOP = 1
    CANNOT_WRITE = 2


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
    command: str

    @property
    def averaged(self) -> dict[str, torch.nn.Module]:
        return {name: ema.module for name, ema in self.emas.items()}

    @property
    def remembered(self) -> Mapping[str, nn.Module]:
        return self.method.remembered if isinstance(self.method, Remembers) else {}

    def stats(self, name: str) -> Report:
        """Numbers of a network's engine; all but the first network's bear its name."""
        mark = "" if name == next(iter(self.engines)) else f"/{name}"
        return {f"{key}{mark}": value for key, value in self.engines[name].stats().items()}

    def save(self, step: int, log: RunLog) -> None:
        """Checkpoint step `step`. Never one with broken weights, or amid skipped steps, to push out the good ones.

        Raises:
            NonFiniteError: an average is not finite, and so its network is not.
            OSError: the checkpoint cannot be written, and the configuration says to stop then.
        """
        for name, ema in self.emas.items():
            if broken := first_non_finite(ema.module.state_dict().items()):
                raise NonFiniteError(f"the weight {broken} of {name!r} is no longer finite at step {step}")
        if any(engine.is_skipping for engine in self.engines.values()):
            log.say(f"step {step} was skipped, so it has no checkpoint; {self.checkpoints}")
            return
        log.sync()
        try:
            for remark in self.checkpoints.save(step, self.updates, self.engines, self.emas, self.remembered):
                log.say(remark)
        except OSError as error:
            if self.config.on_disk_full == "stop" or not atomic.is_disk_full(error):
                raise
            log.say(f"warning: the disk is full, so step {step} has no checkpoint; {self.checkpoints}")

    def measure(self, method: Monitored) -> Report:
        """Rank 0's measurements of the averaged networks, and how long they took, on all ranks. Collective."""
        began = time.perf_counter()
        measured = decided_by_rank_0(partial(method.monitor, self.averaged, self.config.output))
        return measured | {"monitor_seconds": time.perf_counter() - began}

    def end_round(self, method: InRounds, done: int) -> None:
        """Export the round that ends with step `done` and begin the next. Collective. Raises OSError: not written."""
        card = model_card(self.config, self.command, self.world, {})
        decided_by_rank_0(lambda: method.export_round(done, self.config.output, self.averaged, card))
        method.hand_over({name: dict(engine.masters()) for name, engine in self.engines.items()})

    def grid(self) -> torch.Tensor:
        return self.method.grid(self.averaged, seeded("grid", self.config.seed, device=self.device))


def run(config: TrainConfig, command: str, stop: StopRequest, checkpoint: str | None = None) -> None:
    """Train, checkpoint and export as `config` says. Repeating a finished run says so; an interrupted one continues.

    Args:
        command: how the user started this, for messages and the model card.
        stop: hears requests to stop since the process began.
        checkpoint: name of the one to resume from, in place of the newest; needs no manifest.

    Raises:
        ConfigError, CheckpointError, DataError, ValueError: one sentence for the user.
        NonFiniteError, RankError: training cannot go on; the last checkpoint is whole.
        Interrupted: a signal asked the run to stop; everything is saved.
    """
    with held_by_rank_0(config.output):
        device, store = start_processes(config.device, 1.5 * config.watchdog_seconds)  # the watchdog speaks first
        checkpoints = Checkpoints(config.output / "checkpoints", config.keep_checkpoints)
        try:
            start, remarks = starting_point(config, checkpoints, checkpoint)
            if start is None:
                return
            state = _build(config, command, device, checkpoints, start)
            stream = _stream(state, start)  # before the watchdog: indexing shards may take long
            decided_by_rank_0(lambda: same_data(stream, config.output, start))
            with _log(state, start) as log:
                remarks += left_out(stream)
                for remark in [*remarks, *([f"resuming {config.output} at step {start}"] if start else [])]:
                    log.say(remark)
                with Watchdog(store, state.rank, state.world, config.watchdog_seconds, checkpoints) as watchdog:
                    stop.between_steps(checkpoints)
                    train(state, (batch.to(device) for batch in stream), log, stop, watchdog, start)
                    watchdog.at("the barrier before the export")
                    barrier()
                    for line in bad_samples(stream):
                        log.say(line)
                stop.at_once("stopped after the last step, before the export; nothing is lost")
                if state.rank == 0:
                    _finish(state, log)
        except OSError as error:
            where, why = error.filename or config.output, error.strerror or error
            raise ValueError(f"{where}: {why}; {checkpoints}. Mend that and run the same command to resume") from None
        except SafetensorError as error:  # how that library says that the export cannot be written
            raise ValueError(f"{config.output}: {error}; {checkpoints}") from None
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error}; {checkpoints}. Begin again in a new output with a lower optimizer.lr"
            ) from None
        except RuntimeError as error:
            if not is_lost_contact(error):
                raise
            raise RankError(f"another rank is gone ({str(error).splitlines()[0]}); {checkpoints}") from None
        finally:
            leave()


def train(run: Run, batches: Iterator[Batch], log: RunLog, stop: StopRequest, watchdog: Watchdog, start: int) -> None:
    """Optimise until `config.steps`. Restarting with the same configuration continues exactly.

    Raises:
        Interrupted: after saving, when any rank was asked to stop.
        OSError: the logs cannot be written.
    """
    config, method = run.config, run.method
    images_per_step = config.micro_batch * config.engine.accumulation * run.world
    for step in range(start, config.steps):
        began, done = time.perf_counter(), step + 1
        watchdog.at(f"the data of step {done}")
        batch = [next(batches) for _ in range(config.engine.accumulation)]
        numbers: Report = {}
        phases = method.phases(step)
        for phase in phases:
            engine = run.engines[phase]
            forward = {name: run.engines[name].module for name in phases} | {phase: engine}
            generators = [
                seeded(phase, config.seed, run.rank, step, micro, device=run.device) for micro in range(len(batch))
            ]
            if len(batch) > 1 and isinstance(method, BatchCoupled):
                watchdog.at(f"the features of all micro-batches of {phase!r} (all-gather), step {done}")
                method.prepare(phase, batch, forward, generators, step)
            for part, generator in zip(batch, generators, strict=True):
                watchdog.at(f"the loss of {phase!r} (all-gather of features), step {done}")
                loss, report = method.loss(phase, part, forward, generator, step)
                if not engine.outputs_are_finite:
                    report = dict.fromkeys(report, math.nan)
                watchdog.at(f"the all-reduce of the gradients of {phase!r}, step {done}")
                applied = engine.update(loss)
            watchdog.at(f"the all-gather of the weights of {phase!r}, step {done}")
            if applied:
                run.emas[phase].update(run.updates[phase], engine.masters(), engine.buffers())
                run.updates[phase] += 1
            numbers |= report | run.stats(phase)
        numbers["images_per_second"] = images_per_step / (time.perf_counter() - began)
        if isinstance(method, InRounds) and method.ends_round(done):
            watchdog.at(f"the end of a round (all-gather of the weights), step {done}")
            run.end_round(method, done)
        measured: Report = {}
        if isinstance(method, Monitored) and method.is_monitored(done):
            watchdog.at(f"the measurement of progress (on rank 0), step {done}")
            measured = run.measure(method)
        due = bool(measured) or done % config.log_every == 0 or done == config.steps
        log.step(done, done * images_per_step, numbers, measured, write=due)
        watchdog.at(f"the vote on stopping (all-reduce), step {done}")
        verdict = largest(_verdict(stop, log), run.device)
        if verdict == Verdict.CANNOT_WRITE:
            decided_by_rank_0(log.raise_failure)
        watchdog.at(f"the sample grid, step {done}")
        if done % config.sample_every == 0 or done == config.steps:
            log.grid(done, run.grid())
        watchdog.at(f"the checkpoint (barriers), step {done}")
        if done % config.save_every == 0 or done == config.steps or verdict == Verdict.STOP:
            run.save(done, log)
        if verdict == Verdict.STOP and done < config.steps:
            lost = "nothing is lost" if run.checkpoints.last == done else str(run.checkpoints)
            raise Interrupted(f"stopped at step {done} of {config.steps}; {lost}")


def _verdict(stop: StopRequest, log: RunLog) -> Verdict:
    if log.failure is not None:
        return Verdict.CANNOT_WRITE
    return Verdict.STOP if stop.raised else Verdict.GO_ON


def _build(config: TrainConfig, command: str, device: torch.device, checkpoints: Checkpoints, start: int) -> Run:
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(config.seed)  # initial weights of networks that start from scratch
    bfloat16 = config.engine.precision == "bfloat16"
    method = build_method(config.method, Parts(device, world, config.seed, config.steps, bfloat16, config.output))
    # Copied before the engines exist: ZeRO-3 leaves empty parameters behind.
    settings = {name: method.settings.get(name, NetworkSettings()) for name in method.networks}
    emas = {
        name: Ema(network, config.ema, saves_frozen=settings[name].saves_frozen)
        for name, network in method.networks.items()
    }
    engines = {name: _engine(network, config, settings[name]) for name, network in method.networks.items()}
    run = Run(config, rank, world, device, method, engines, emas, dict.fromkeys(engines, 0), checkpoints, command)
    if start:
        run.updates.update(checkpoints.restore(start, engines, emas, run.remembered))
    return run


def _engine(network: nn.Module, config: TrainConfig, own: NetworkSettings) -> Engine:
    section = config.engine.model_copy(update={"precision": own.precision or config.engine.precision})
    optimizer = own.optimizer or config.optimizer
    if own.clip is not None:
        optimizer = optimizer.model_copy(update={"clip": own.clip})
    return Engine(
        network,
        section,
        optimizer,
        micro_batch=config.micro_batch,
        steps=config.steps,
        saves_frozen=own.saves_frozen,
    )


def _log(run: Run, start: int) -> RunLog:
    config = run.config
    return RunLog(
        config.output,
        active=run.rank == 0,
        start=start,
        steps=config.steps,
        title=config.output.name,
        survive_full_disk=config.on_disk_full == "continue",
    )


def _stream(run: Run, start: int) -> Iterator[Batch]:
    config = run.config
    return open_stream(
        config.data,
        batch_size=config.micro_batch // run.method.drafts_per_condition,
        seed=config.seed,
        rank=run.rank,
        world=run.world,
        start=start * config.engine.accumulation,
    )


def _finish(run: Run, log: RunLog) -> None:
    """Measure and export, on rank 0 alone: the averaged networks are whole on every rank."""
    config = run.config
    quality: Report = {}
    if config.validation is not None:
        log.say("measuring quality")
        validation = open_stream(config.validation, batch_size=config.micro_batch, seed=0, rank=0, world=1, start=0)
        quality = run.method.quality(run.averaged, (batch.to(run.device) for batch in validation))
    folder = config.output / run.method.product
    run.method.export(folder, run.averaged, model_card(config, run.command, run.world, quality))
    write_done(config.output, Done(steps=config.steps, quality=quality))
    figures = "  ".join(f"{name} {value:.4g}" for name, value in quality.items())
    log.say(f"exported {folder}  {figures}")
