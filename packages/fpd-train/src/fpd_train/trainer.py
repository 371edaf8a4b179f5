"""The training loop: one function, in the order of time, knowing no method by name."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial

import torch
from safetensors import SafetensorError
from torch import distributed as dist
from torch import nn

from fpd_core import atomic
from fpd_core.draws import shared
from fpd_train.batch import Batch
from fpd_train.breakdown import Breakdown
from fpd_train.card import model_card
from fpd_train.checkpointing import Checkpoints, Layout
from fpd_train.config import TrainConfig
from fpd_train.data import open_stream
from fpd_train.data.reporting import bad_samples, left_out, same_data
from fpd_train.ema import Ema
from fpd_train.engine import Engine, Partitioned, start_processes
from fpd_train.errors import Interrupted, NonFiniteError, OutOfMemoryError, RankError
from fpd_train.memory import is_out_of_memory, remedies
from fpd_train.methods import build_method
from fpd_train.methods.interface import (
    BatchCoupled,
    Distils,
    InRounds,
    Method,
    Monitored,
    NetworkSettings,
    Parts,
    Remembers,
    Report,
)
from fpd_train.nonfinite import first_non_finite
from fpd_train.pace import PROFILE, Pace
from fpd_train.ranks import barrier, decided_by_rank_0, gather, is_lost_contact, largest, leave
from fpd_train.recompute import recompute, recompute_blocks
from fpd_train.run_folder import Done, held_by_rank_0, starting_point, write_done
from fpd_train.runlog import RunLog
from fpd_train.seeds import seeded
from fpd_train.stopping import StopRequest
from fpd_train.timing import draw_if_many as draw_timing
from fpd_train.trackers import Tracker
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
    start: int
    images_before: int
    pace: Pace
    breakdown: Breakdown
    partitioned: Partitioned | None

    def images_seen(self, step: int) -> int:
        """Images of all ranks in the first `step` steps."""
        return self.images_before + (step - self.start) * _images_per_step(self.config, self.world)

    @contextmanager
    def averaged(self) -> Iterator[Mapping[str, nn.Module]]:
        """The averaged networks, whole on the ranks that draw while this lasts. Collective."""
        everywhere = self.partitioned is not None
        with ExitStack() as stack:
            yield {name: stack.enter_context(ema.gathered(everywhere=everywhere)) for name, ema in self.emas.items()}

    @property
    def draws(self) -> bool:
        """Whether this rank samples the averaged networks: rank 0, or all where frozen networks lie in pieces."""
        return self.rank == 0 or self.partitioned is not None

    @property
    def remembered(self) -> Mapping[str, nn.Module]:
        return self.method.remembered if isinstance(self.method, Remembers) else {}

    def stats(self, name: str) -> Report:
        """Numbers of a network's engine; all but the first network's bear its name."""
        mark = "" if name == next(iter(self.engines)) else f"/{name}"
        return {f"{key}{mark}": value for key, value in self.engines[name].stats().items()}

    def generator(self, phase: str, step: int, micro: int) -> torch.Generator:
        """Randomness of a micro-batch: with `joint_draws`, that of one rank with all of it."""
        seed = self.config.seed
        if self.world == 1 or not self.config.engine.joint_draws:
            return seeded(phase, seed, self.rank, step, micro, device=self.device)
        together = seeded(phase, seed, 0, step, micro, device=self.device)
        own = seeded(f"{phase} of one rank", seed, self.rank, step, micro, device=self.device)
        return shared(own, together, self.rank, self.world)

    def save(self, step: int, log: RunLog) -> None:
        """Checkpoint step `step`. Never one with broken weights, or amid skipped steps, to push out the good ones.

        Raises:
            NonFiniteError: an average is not finite, and so its network is not.
            OSError: the checkpoint cannot be written, and the configuration says to stop then.
        """
        for name, ema in self.emas.items():
            if broken := [found for found in gather(first_non_finite(ema.parts())) if found]:
                raise NonFiniteError(f"the weight {broken[0]} of {name!r} is no longer finite at step {step}")
        if any(engine.is_skipping for engine in self.engines.values()):
            log.say(f"step {step} was skipped, so it has no checkpoint; {self.checkpoints}")
            return
        log.sync()
        try:
            state = (self.updates, self.engines, self.emas, self.remembered)
            for remark in self.checkpoints.save(step, *state, images_seen=self.images_seen(step)):
                log.say(remark)
        except OSError as error:
            if self.config.on_disk_full == "stop" or not atomic.is_disk_full(error):
                raise
            log.say(f"warning: the disk is full, so step {step} has no checkpoint; {self.checkpoints}")

    def measure(self, method: Monitored) -> Report:
        """Rank 0's measurements of the averaged networks, and how long they took, on all ranks. Collective."""
        began = time.perf_counter()
        with self.averaged() as averaged:
            measuring = partial(method.monitor, averaged, self.config.output)
            measured = decided_by_rank_0(measuring) if self.partitioned is None else measuring()
        return measured | {"monitor_seconds": time.perf_counter() - began}

    def end_round(self, method: InRounds, done: int) -> None:
        """Export the round that ends with step `done` and begin the next. Collective. Raises OSError: not written."""
        card = model_card(self.config, self.command, self.world, {})
        with self.averaged() as averaged:
            decided_by_rank_0(lambda: method.export_round(done, self.config.output, averaged, card))
        method.hand_over({name: dict(engine.masters()) for name, engine in self.engines.items()})

    def save_grid(self, step: int, log: RunLog) -> None:
        """Draw with the averaged networks. Collective."""
        with self.averaged() as averaged:
            if self.draws:
                log.grid(step, self.method.grid(averaged, seeded("grid", self.config.seed, device=self.device)))


def run(
    config: TrainConfig, command: str, stop: StopRequest, checkpoint: str | None = None, *, profile: bool = False
) -> None:
    """Train, checkpoint and export as `config` says. Repeating a finished run says so; an interrupted one continues.

    Args:
        command: how the user started this, for messages and the model card.
        stop: hears requests to stop since the process began.
        checkpoint: name of the one to resume from, in place of the newest; needs no manifest.
        profile: write torch traces of two early steps.

    Raises:
        ConfigError, CheckpointError, DataError, ValueError: one sentence for the user.
        NonFiniteError, RankError: training cannot go on; the last checkpoint is whole.
        Interrupted: a signal asked the run to stop; everything is saved.
    """
    with held_by_rank_0(config.output):
        device, store = start_processes(config.device, 1.5 * config.watchdog_seconds)  # the watchdog speaks first
        world = dist.get_world_size()
        layout = Layout(world, config.engine.zero_stage, _images_per_step(config, world))
        checkpoints = Checkpoints(config.output / "checkpoints", config.keep_checkpoints, layout)
        try:
            start, remarks = starting_point(config, checkpoints, checkpoint)
            if start is None:
                return
            state, remark = _build(config, command, device, checkpoints, start, profile)
            stream = _stream(state)  # before the watchdog: indexing shards may take long
            decided_by_rank_0(lambda: same_data(stream, config.output, start))
            with _log(state, start) as log:
                remarks += left_out(stream)
                if start:
                    remarks.append(f"resuming {config.output} at step {start}" + (f"; {remark}" if remark else ""))
                for said in remarks:
                    log.say(said)
                with Watchdog(store, state.rank, state.world, config.watchdog_seconds, checkpoints) as watchdog:
                    stop.between_steps(checkpoints)
                    with state.breakdown.watching_collectives():
                        train(state, (batch.to(device) for batch in stream), log, stop, watchdog)
                    watchdog.at("the barrier before the export")
                    barrier()
                    for line in bad_samples(stream):
                        log.say(line)
                stop.at_once("stopped after the last step, before the export; nothing is lost")
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
            if is_out_of_memory(error):
                settings = "; then ".join(remedies(config, world))
                raise OutOfMemoryError(f"out of memory ({_first_line(error)}); set {settings}; {checkpoints}") from None
            if not is_lost_contact(error):
                raise
            raise RankError(f"another rank is gone ({str(error).splitlines()[0]}); {checkpoints}") from None
        finally:
            leave()


def train(run: Run, batches: Iterator[Batch], log: RunLog, stop: StopRequest, watchdog: Watchdog) -> None:
    """Optimise until `config.steps`. Restarting with the same configuration continues exactly.

    Raises:
        Interrupted: after saving, when any rank was asked to stop.
        OSError: the logs cannot be written.
    """
    config, method = run.config, run.method
    images_per_step = _images_per_step(config, run.world)
    for step in range(run.start, config.steps):
        began, done = time.perf_counter(), step + 1
        watchdog.at(f"the data of step {done}")
        numbers: Report = {}
        phases = method.phases(step)
        with run.pace.step():
            with run.breakdown.part("data"):
                batch = [next(batches) for _ in range(config.engine.accumulation)]
            for phase in phases:
                engine = run.engines[phase]
                forward = {name: run.engines[name].module for name in phases} | {phase: engine}
                generators = [run.generator(phase, step, micro) for micro in range(len(batch))]
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
                if applied:
                    masters = ((piece.name, piece.values) for piece in engine.pieces())
                    run.emas[phase].update(run.updates[phase], masters, engine.buffers())
                    run.updates[phase] += 1
                numbers |= report | run.stats(phase)
        due = done % config.log_every == 0 or done == config.steps
        timing = run.pace.numbers() if due else {}
        numbers["images_per_second"] = images_per_step / (time.perf_counter() - began)
        if isinstance(method, InRounds) and method.ends_round(done):
            watchdog.at(f"the end of a round (all-gather of the weights), step {done}")
            run.end_round(method, done)
        measured: Report = {}
        if isinstance(method, Monitored) and method.is_monitored(done):
            watchdog.at(f"the measurement of progress (on rank 0), step {done}")
            measured = run.measure(method)
        log.step(done, run.images_seen(done), numbers, measured, write=due or bool(measured))
        if due:
            log.timing(done, timing)
        watchdog.at(f"the vote on stopping (all-reduce), step {done}")
        verdict = largest(_verdict(stop, log), run.device)
        if verdict == Verdict.CANNOT_WRITE:
            decided_by_rank_0(log.raise_failure)
        watchdog.at(f"the sample grid, step {done}")
        if done % config.sample_every == 0 or done == config.steps:
            run.save_grid(done, log)
        watchdog.at(f"the checkpoint (barriers), step {done}")
        if done % config.save_every == 0 or done == config.steps or verdict == Verdict.STOP:
            run.save(done, log)
        if verdict == Verdict.STOP and done < config.steps:
            lost = "nothing is lost" if run.checkpoints.last == done else str(run.checkpoints)
            raise Interrupted(f"stopped at step {done} of {config.steps}; {lost}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split(". ")[0].splitlines()[0]


def _verdict(stop: StopRequest, log: RunLog) -> Verdict:
    if log.failure is not None:
        return Verdict.CANNOT_WRITE
    return Verdict.STOP if stop.raised else Verdict.GO_ON


def _build(
    config: TrainConfig, command: str, device: torch.device, checkpoints: Checkpoints, start: int, profile: bool
) -> tuple[Run, str | None]:
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
    if config.engine.activation_checkpointing != "off":
        for network in method.networks.values():
            recompute_blocks(network)
    engines = {name: _engine(network, config, settings[name]) for name, network in method.networks.items()}
    breakdown = Breakdown(device)
    partitioned = _prepare_frozen(method, config, breakdown)
    for name, engine in engines.items():
        engine.watch(breakdown, name)
    if world > 1:
        for name, ema in emas.items():
            ema.shard(engines[name].pieces())
    updates, before = dict.fromkeys(engines, 0), start * _images_per_step(config, world)
    places = (rank, world, device)
    trace = config.output / PROFILE / f"rank{rank}_step" if profile else None
    pace = Pace(
        breakdown,
        device,
        torch.bfloat16 if bfloat16 else torch.float32,
        counts=config.engine.compile == "off",
        trace=trace,
    )
    run = Run(
        config,
        *places,
        method,
        engines,
        emas,
        updates,
        checkpoints,
        command,
        start,
        before,
        pace,
        breakdown,
        partitioned,
    )
    if not start:
        return run, None
    state, remark = checkpoints.restore(start, engines, emas, run.remembered)
    updates.update(state.updates)
    return (run if state.images_seen is None else replace(run, images_before=state.images_seen)), remark


def _prepare_frozen(method: Method, config: TrainConfig, breakdown: Breakdown) -> Partitioned | None:
    """Frozen networks as the engine's section wants them; their parts of a step are timed."""
    if not isinstance(method, Distils):
        return None
    how = config.engine
    partitioned = Partitioned(method.frozen, config.micro_batch) if how.partition_frozen else None
    for name, (owner, work) in method.stages.items():
        if how.compile != "off" and name != "drift":
            setattr(owner, work, torch.compile(getattr(owner, work), backend=how.compile))
        if how.activation_checkpointing == "all" and name in ("decode", "lift"):
            recompute(owner, work)
        breakdown.watch(owner, work, name)
    return partitioned


def _images_per_step(config: TrainConfig, world: int) -> int:
    return config.micro_batch * config.engine.accumulation * world


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
        trackers=lambda: [Tracker(name, config.output, config.model_dump(mode="json")) for name in config.trackers],
    )


def _stream(run: Run) -> Iterator[Batch]:
    config, drafts = run.config, run.method.drafts_per_condition
    return open_stream(
        config.data,
        batch_size=config.micro_batch // drafts,
        seed=config.seed,
        rank=run.rank,
        world=run.world,
        position=run.images_before // drafts,
    )


def _finish(run: Run, log: RunLog) -> None:
    """Measure and export, on rank 0 alone. Collective."""
    with run.averaged() as averaged, run.partitioned.gathered() if run.partitioned else nullcontext():
        if run.rank == 0:
            _export(run, averaged, log)


def _export(run: Run, averaged: Mapping[str, nn.Module], log: RunLog) -> None:
    config = run.config
    quality: Report = {}
    if config.validation is not None:
        log.say("measuring quality")
        validation = open_stream(config.validation, batch_size=config.micro_batch, seed=0, rank=0, world=1, position=0)
        quality = run.method.quality(averaged, (batch.to(run.device) for batch in validation))
    folder = config.output / run.method.product
    run.method.export(folder, averaged, model_card(config, run.command, run.world, quality))
    draw_timing(config.output)
    write_done(config.output, Done(steps=config.steps, quality=quality))
    figures = "  ".join(f"{name} {value:.4g}" for name, value in quality.items())
    log.say(f"exported {folder}  {figures}")
