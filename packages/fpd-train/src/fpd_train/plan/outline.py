"""The networks of a run without their weights, and what one of its steps does."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from fpd_core.config import Config, ConfigError
from fpd_core.lift import GRID_SIDE
from fpd_core.teachers.teacher import Teacher
from fpd_train.batch import Batch
from fpd_train.config import TrainConfig
from fpd_train.methods import build_method
from fpd_train.methods.fpd import FpdConfig
from fpd_train.methods.interface import BatchCoupled, Method, NetworkSettings, Parts
from fpd_train.plan.inputs import one_batch, without_files
from fpd_train.plan.meta import META, Flops, Gathered, valueless
from fpd_train.plan.zero import FLOAT32, Network

FLOAT64 = 8
COUNTED = 2  # micro-batches of an accumulation that are looked at; further ones do the same


@dataclass(frozen=True)
class Outline:
    """One step of one rank.

    Attributes:
        frozen: bytes of all that is neither trained nor averaged: teacher, decoder, backbones, remembered networks.
        transformer: bytes of the teacher's transformer among them.
        flops: by how a card multiplies.
        student_activations, activations: bytes kept for backward, of the trained network's forward and of all else.
        gathered: bytes of features that every rank ends up with.
        pairs: bytes of the arrays over all pairs of samples from which the drift is made.
        passes, forwards: micro-batches with a backward and forward passes, by network.
        codes: K of the teacher, 0 without one.
        logits: bytes of the scores of a micro-batch, [B, L, K] float32.
    """

    networks: dict[str, Network]
    frozen: int
    transformer: int
    flops: dict[str, int]
    student_activations: int
    activations: int
    gathered: int
    pairs: int
    passes: dict[str, int]
    forwards: dict[str, int]
    codes: int
    logits: int


def outline(config: TrainConfig, world: int) -> Outline:
    """Build a method on the meta device and count its last step. Opens no published weights and no data.

    Raises:
        ConfigError: the method does something that needs values, not shapes alone.
    """
    config = without_files(config)
    batch, parts = one_batch(config), Parts(META, world, config.seed, config.steps, _is_half(config), None)
    others = Gathered(world)
    with valueless(), others.stand(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that nothing is copied into weights without storage
        try:
            with META:
                method = build_method(config.method, parts)
            step = _Step(config, method, batch.to(META))
            step.run()
        except RuntimeError as error:  # torch's, about what the meta device cannot do
            raise ConfigError(
                f"method {config.method.name!r} cannot be planned: torch's meta device, which knows shapes and no "
                f"values, refuses a step of it ({str(error).splitlines()[0]})"
            ) from None
    networks = {name: _network(config, method, name, step.frozen) for name in method.networks}
    teachers = [one for one in _modules(method, set()) if isinstance(one, Teacher)]
    scale = config.engine.accumulation / step.micro_batches
    return Outline(
        networks,
        sum(step.frozen.values()),
        sum(_storages(teachers[0].network).values()) if teachers else 0,
        {kind: round(count * scale) for kind, count in step.flops.by_kind().items()},
        step.most[True],
        step.most[False],
        round(others.bytes * scale),
        _pairs(config, world),
        {name: round(count * scale) for name, count in step.passes.items()},
        {name: round(count * scale) for name, count in step.forwards.items()},
        teachers[0].codebook_size if teachers else 0,
        config.micro_batch * teachers[0].seq_len * teachers[0].codebook_size * FLOAT32 if teachers else 0,
    )


class _Step:
    """Runs the phases of the last step and counts."""

    def __init__(self, config: TrainConfig, method: Method, batch: Batch) -> None:
        self.config, self.method, self.batch = config, method, batch
        self.micro_batches = min(config.engine.accumulation, COUNTED)
        apart = {id(part) for net in method.networks.values() for part in net.modules()}
        held = [_storages(one) for one in _modules(method, apart)]
        self.frozen = {place: size for one in held for place, size in one.items()}
        self._weights = set(self.frozen).union(*map(_storages, method.networks.values()))
        self._inside = False
        self._saved: dict[bool, dict[int, int]] = {}
        self.most = {True: 0, False: 0}
        self.passes: Counter[str] = Counter()
        self.forwards: Counter[str] = Counter()
        self.flops = Flops()

    def run(self) -> None:
        step, count = self.config.steps - 1, self.micro_batches
        phases = self.method.phases(step)
        keep = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        with patch.object(torch, "autocast", self.flops.autocast), keep, self.flops:
            for phase in phases:
                forward = {name: self._counted(name, self.method.networks[name]) for name in phases}
                drawn = [torch.Generator()] * count
                if count > 1 and isinstance(self.method, BatchCoupled):
                    self.method.prepare(phase, [self.batch] * count, forward, drawn, step)
                for _ in range(count):
                    self._saved = {True: {}, False: {}}
                    loss, _ = self.method.loss(phase, self.batch, forward, drawn[0], step)
                    if sum(map(len, self._saved.values())):
                        sizes = {inside: sum(found.values()) for inside, found in self._saved.items()}
                        self.most = max(self.most, sizes, key=lambda one: sum(one.values()))
                    self.flops.is_backward = True
                    loss.backward()
                    self.flops.is_backward = False
                    self.passes[phase] += 1

    def _counted(self, name: str, network: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.forwards[name] += 1
            self._inside = True
            try:
                return network(*args, **kwargs)
            finally:
                self._inside = False

        return forward

    def _keep(self, tensor: Tensor) -> Tensor:
        place = _place(tensor)
        known = place in self._weights or any(place in found for found in self._saved.values())
        if tensor.is_meta and self._saved and not known:
            self._saved[self._inside][place] = tensor.untyped_storage().nbytes()
        return tensor


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _storages(module: nn.Module) -> dict[int, int]:
    tensors = (*module.parameters(), *module.buffers())
    return {_place(one): one.untyped_storage().nbytes() for one in tensors}


def _network(config: TrainConfig, method: Method, name: str, frozen: Mapping[int, int]) -> Network:
    module, own = method.networks[name], method.settings.get(name, NetworkSettings())
    parameters = list(dict.fromkeys(module.parameters()))
    optimizer = own.optimizer or config.optimizer
    return Network(
        trained=[one.numel() for one in parameters if one.requires_grad],
        frozen=[one.numel() for one in parameters if not one.requires_grad],
        shared=sum(one.numel() for one in parameters if not one.requires_grad and _place(one) in frozen),
        buffers=sum(one.numel() * one.element_size() for one in module.buffers()),
        is_half=(own.precision or config.engine.precision) == "bfloat16",
        moments=2 if optimizer.first_moment else 1,
        has_average=config.ema.enabled,
    )


def _pairs(config: TrainConfig, world: int) -> int:
    """Of the largest map: all products [F, 2N, 2N], and some six times [F, N, 2N] of distances and weights, float64."""
    method = config.method
    if not isinstance(method, FpdConfig) or method.objective.distance.name != "drift":
        return 0
    samples = config.micro_batch * config.engine.accumulation * (world if method.gather else 1)
    cells = max(GRID_SIDE[space.grid] ** 2 for space in method.lift.spaces)
    return cells * samples**2 * (4 + 6 * 2) * FLOAT64


def _is_half(config: TrainConfig) -> bool:
    return config.engine.precision == "bfloat16"


def _modules(thing: object, seen: set[int]) -> Iterator[nn.Module]:
    """The networks that a method holds, in attributes, containers, bound methods and records of ours, not in `seen`."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        yield thing
    if isinstance(thing, Mapping):
        inner: list[Any] = list(thing.values())
    elif isinstance(thing, list | tuple):
        inner = list(thing)
    elif isinstance(thing, MethodType):
        inner = [thing.__self__]
    elif isinstance(thing, nn.Module) or (type(thing).__module__.startswith("fpd_") and not isinstance(thing, Config)):
        inner = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    else:
        inner = []
    for one in inner:
        yield from _modules(one, seen)
