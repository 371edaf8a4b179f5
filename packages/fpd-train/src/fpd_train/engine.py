"""The only file that knows DeepSpeed: one engine per trained network.

Frozen networks stay plain modules outside every engine. A second network's loss must pass through `Engine.module`, not
through the engine itself, and each engine gets one backward per micro-batch: other wirings are wrong in silence.
"""

import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fpd_core import atomic
from fpd_core.untrusted import open_regular
from fpd_train import ranks
from fpd_train.breakdown import Breakdown
from fpd_train.ema import Piece
from fpd_train.engine_config import GRADIENT_BUCKET, EngineConfig, OptimizerConfig, learning_rate_factor
from fpd_train.errors import NonFiniteError
from fpd_train.nonfinite import first_non_finite, made_finite, watched_outputs
from fpd_train.second_moment import SecondMomentAdamW
from fpd_train.universal import convert

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
import deepspeed
from deepspeed.runtime import compiler
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import logger, safe_get_full_fp32_param, safe_get_full_grad, safe_get_local_fp32_param
from deepspeed.utils.tensor_fragment import fragment_address

# All that DeepSpeed's own files hold beside tensors and plain containers: records without behaviour.
RECORDS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [LossScaler, ZeroStageEnum, fragment_address]

# Beside any optimizer DeepSpeed imports its Muon, and that torch's whole compiler: seconds in every start. No run uses
# Muon, so its functions may stay as they are.
with suppress(ImportError, AttributeError), patch.object(compiler, "compile", lambda: lambda function: function):
    import deepspeed.runtime.zero.muon.muon_optimizer


def start_processes(device: str, limit_seconds: float) -> tuple[torch.device, ranks.Store]:
    """Join the process group. Collective.

    Args:
        limit_seconds: how long to wait for another rank, now and in every collective call.

    Returns:
        this rank's device, a store that the ranks share.

    Raises:
        ConfigError: the ranks cannot meet.
    """
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    backend = "nccl" if use_cuda else "gloo"
    store = ranks.meet(backend, limit_seconds)
    logger.setLevel(logging.ERROR)
    if not use_cuda:
        # The shared-memory op compiles for a minute and a killed compile hangs later runs; gloo is enough on CPUs.
        # Said before anybody asks, which would try the compiler of every op.
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    local = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(local)
    return local, store


def _deepspeed_config(
    engine: EngineConfig, optimizer: OptimizerConfig, micro_batch: int, trained: int
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": engine.accumulation,
        # ZeRO allocates the whole bucket for gradients; with room for all of them it is emptied once, as a larger one.
        "zero_optimization": {"stage": engine.zero_stage, "reduce_bucket_size": min(GRADIENT_BUCKET, trained)},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": optimizer.clip,
        "steps_per_print": 10**9,
    }
    zero = config["zero_optimization"]
    if engine.offload != "off":
        where = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        zero |= {"offload_optimizer": where} | ({"offload_param": where} if engine.offload == "all" else {})
        config["zero_force_ds_cpu_optimizer"] = False  # its own is compiled for minutes; torch's runs on any device
    if engine.precision == "bfloat16":
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


class _CarefulAdamW(torch.optim.AdamW):
    """Leaves the weights alone when a gradient is not finite and says so in DeepSpeed's word, `overflow`.

    For stage 0, where nobody else looks; ZeRO does it itself. Gradients are averaged by then: all ranks decide alike.
    """

    overflow = False

    def step(self, closure: Any = None) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.overflow = not all(bool(gradient.isfinite().all()) for gradient in gradients)
        return None if self.overflow else super().step(closure)


def _adamw(trainable: list[nn.Parameter], how: OptimizerConfig, *, careful: bool) -> torch.optim.Optimizer:
    if not how.first_moment:
        beta2 = how.betas[1]
        return SecondMomentAdamW(trainable, how.lr, beta2=beta2, eps=how.eps, weight_decay=how.weight_decay)
    kind = _CarefulAdamW if careful else torch.optim.AdamW
    return kind(trainable, how.lr, betas=how.betas, eps=how.eps, weight_decay=how.weight_decay)


class _TensorFiles(CheckpointEngine):  # type: ignore[misc]
    """How DeepSpeed reads and writes its files here: whole or not at all, and never more than tensors and `RECORDS`.

    A failed write is kept in `error` and raised later, on all ranks: raised here, it would leave them waiting inside
    DeepSpeed. Files are read ahead by `read`, for the same reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: OSError | None = None
        self.written: list[Path] = []
        self._ahead: dict[str, Any] = {}

    def create(self, info: Any) -> None:
        self.error, self.written = None, []

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        try:
            super().makedirs(path, exist_ok)
        except OSError as error:
            self.error = error

    def save(self, state_dict: Any, path: str) -> None:
        try:
            with atomic.replacing(Path(path)) as target, target.open("wb") as file:
                writer: Any = _RememberingWriter(file)
                try:
                    torch.save(state_dict, writer)
                except RuntimeError:  # torch hides why its writer stopped
                    raise writer.error or OSError(f"torch could not write {path}") from None
            self.written.append(Path(path))
        except OSError as error:
            self.error = error

    def read(self, path: Path) -> None:
        """Open a file ahead of `load`. Raises ValueError: it is absent, damaged or holds more than tensors."""
        self._ahead[str(path)] = self.opened(path)

    @staticmethod
    def opened(path: Path, *, mapped: bool = False) -> Any:
        """What a file holds; `mapped` leaves its tensors on the disk until they are used. Raises ValueError."""
        try:
            with open_regular(path) as file, torch.serialization.safe_globals(RECORDS):
                return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # whatever a file from elsewhere makes of torch's reader
            raise ValueError(
                f"{path} cannot be resumed from: it is damaged or holds more than tensors ({_first_line(error)})"
            ) from None

    def load(self, path: str, map_location: Any = None) -> Any:
        if path not in self._ahead:
            self.read(Path(path))
        return self._ahead.pop(path)

    def commit(self, info: Any) -> bool:
        return True


class _RememberingWriter(io.RawIOBase):
    """Hands bytes on to a file and keeps the error that stopped it."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__} {str(error).strip().splitlines()[0] if str(error).strip() else ''}".strip()


class Partitioned:
    """Frozen networks whose weights the ranks share at ZeRO stage 3: gathered layer by layer in every forward pass, so
    that all ranks must run them alike."""

    def __init__(self, networks: Mapping[str, nn.Module], micro_batch: int) -> None:
        self._parameters = [p for network in networks.values() for p in network.parameters()]
        self._engines = [self._partition(network, micro_batch) for network in networks.values()]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """While this lasts the weights are whole on all ranks, to be written: a forward pass would scatter them."""
        with deepspeed.zero.GatheredParameters(self._parameters):
            yield

    @staticmethod
    def _partition(network: nn.Module, micro_batch: int) -> Any:
        config: dict[str, Any] = {"train_micro_batch_size_per_gpu": micro_batch, "zero_optimization": {"stage": 3}}
        if any(p.dtype is torch.bfloat16 for p in network.parameters()):
            config["bf16"] = {"enabled": True}
        return deepspeed.initialize(model=network, config=config | {"steps_per_print": 10**9})[0]


class Engine:
    """A trained network: forward through the engine, one backward per micro-batch, a step that may be skipped."""

    def __init__(
        self,
        module: nn.Module,
        engine: EngineConfig,
        optimizer: OptimizerConfig,
        *,
        micro_batch: int,
        steps: int,
        saves_frozen: bool = True,
    ) -> None:
        trainable = [p for p in module.parameters() if p.requires_grad]
        adamw = _adamw(trainable, optimizer, careful=engine.zero_stage == 0)
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: learning_rate_factor(step, optimizer, steps))
        self._config, self._saves_frozen = engine, saves_frozen
        self._skipped_in_a_row = 0
        self._suspects: list[str] = []
        self._outputs_finite: list[Tensor] = []
        self._files = _TensorFiles()
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            lr_scheduler=schedule,
            model_parameters=trainable,
            config=_deepspeed_config(engine, optimizer, micro_batch, sum(p.numel() for p in trainable)),
        )
        if engine.compile != "off":
            self._engine.compile(backend=engine.compile)
        self._engine.checkpoint_engine = self._files
        # Runs export their own safetensors; copied by rank 0 alone, the script would leave the others behind when it
        # does not fit on the disk.
        self._engine._copy_recovery_script = lambda folder: None

    @property
    def module(self) -> nn.Module:
        """The plain network: for losses of another engine that pass through this one."""
        module: nn.Module = self._engine.module
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output, finite = made_finite(self._forward(*args, **kwargs))
        self._outputs_finite += [] if finite is None else [finite]
        return output

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self._last_chance:
            return self._engine(*args, **kwargs)
        weight = first_non_finite(self.masters())
        self._suspects += [f"the weight {weight}"] if weight else []
        outputs: list[str] = []
        with watched_outputs(self.module, outputs):
            result = self._engine(*args, **kwargs)
        self._suspects += [f"the output of {name}" for name in outputs]
        return result

    def update(self, loss: Tensor) -> bool:
        """Backward, and at the end of an accumulation the step. Returns whether weights changed. Collective.

        Raises:
            NonFiniteError: `max_skipped` steps in a row were skipped; names the first tensor that is not finite.
        """
        # What is not finite may still have finite gradients. They become NaN here, so that every rank skips the step.
        finite = torch.stack([loss.detach().isfinite(), *self._outputs_finite]).all()
        self._outputs_finite = []
        self._engine.backward(loss * torch.where(finite, 1.0, torch.nan).to(loss))
        boundary = bool(self._engine.is_gradient_accumulation_boundary())
        if self._last_chance:
            self._suspects += [] if bool(loss.isfinite()) else ["the loss"]
            gradient = first_non_finite(self._gradients()) if boundary else None
            self._suspects += [f"the gradient of {gradient}"] if gradient else []
        self._engine.step()
        if not boundary:
            return False
        applied = bool(self._engine.was_step_applied())
        self._count(applied)
        return applied

    @property
    def outputs_are_finite(self) -> bool:
        """Whether the outputs since the last update are the network's own, not zeros in the place of NaN."""
        return all(bool(finite) for finite in self._outputs_finite)

    @property
    def is_skipping(self) -> bool:
        """Whether the last step was skipped."""
        return self._skipped_in_a_row > 0

    @property
    def _last_chance(self) -> bool:
        """Whether one more skipped step ends the run."""
        return self._skipped_in_a_row + 1 >= self._config.max_skipped

    def _gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                yield name, parameter.grad if self._config.zero_stage == 0 else safe_get_full_grad(parameter)

    def _count(self, applied: bool) -> None:
        self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= self._config.max_skipped:
            culprits = [f"{found[0]} (rank {rank})" for rank, found in enumerate(ranks.gather(self._suspects)) if found]
            raise NonFiniteError(
                f"{self._skipped_in_a_row} steps in a row had a non-finite loss or gradient; the first tensor that is "
                f"not finite: {culprits[0] if culprits else 'a gradient'}"
            )
        self._suspects = []

    def watch(self, breakdown: Breakdown, name: str) -> None:
        """Time its forward passes as `name`, its backward passes and its steps."""
        breakdown.watch(self, "_forward", name)
        for method in ("backward", "step"):
            breakdown.watch(self._engine, method, method)

    def stats(self) -> dict[str, float]:
        """Learning rate and, where the stage reports it, the gradient norm before clipping."""
        norm = self._engine.get_global_grad_norm()
        stats = {"lr": float(self._engine.get_lr()[0])}
        return stats if norm is None else stats | {"grad_norm": float(norm)}

    def masters(self) -> Iterator[tuple[str, Tensor]]:
        """Float32 master of every trainable parameter, whole, on every rank. Collective."""
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                whole = safe_get_full_fp32_param(parameter)
                yield name, parameter.detach() if whole is None else whole

    def pieces(self) -> Iterator[Piece]:
        """This rank's part of every float32 master; together the ranks have each once. Not collective."""
        rank, world, stage = dist.get_rank(), dist.get_world_size(), self._config.zero_stage
        for name, parameter in self._engine.module.named_parameters():
            if not parameter.requires_grad:
                continue
            if stage in (1, 2):
                # The only way to them there is; None where all of a weight lies on other ranks.
                if (mapping := parameter._hp_mapping) is not None:
                    yield Piece(name, mapping.lp_fragment_address.start, mapping.get_hp_fragment().detach())
                continue
            count: int = parameter.ds_numel if stage == 3 else parameter.numel()
            size = -(-count // world)
            start = min(rank * size, count)
            own = safe_get_local_fp32_param(parameter) if stage == 3 else parameter.detach().reshape(-1)[start:]
            yield Piece(name, start, own.reshape(-1)[: min(size, count - start)])

    def buffers(self) -> dict[str, Tensor]:
        """The network's buffers by name."""
        return dict(self._engine.module.named_buffers())

    def save(self, folder: Path) -> list[Path]:
        """Optimizer, schedule and weights under `folder`. Collective. Returns the files that this rank wrote.

        Raises:
            OSError: on this rank alone, after all have finished.
        """
        self._engine.save_checkpoint(
            str(folder.parent),
            tag=folder.name,
            save_latest=False,
            exclude_frozen_parameters=not self._saves_frozen,
        )
        if self._files.error is not None:
            raise self._files.error
        return self._files.written

    def read(self, folder: Path) -> None:
        """Open this rank's files of what `save` wrote, ahead of `load`.

        Raises:
            ValueError: one is damaged or holds more than tensors.
        """
        for path in sorted(folder.glob("*.pt")):
            if "_pp_rank_" not in path.name or f"_pp_rank_{dist.get_rank()}_" in path.name:
                self._files.read(path)

    def convert(self, folder: Path, target: Path, stage: int) -> None:
        """Write what `save` wrote at ZeRO stage `stage` in a form for any number of ranks. On one rank alone.

        Raises:
            ValueError: a file is damaged, or DeepSpeed cannot.
            OSError: `target` cannot be written.
        """
        convert(folder, target, stage, partial(self._files.opened, mapped=True))

    def load_converted(self, folder: Path) -> None:
        """Restore what `convert` wrote. Collective. Raises ValueError: it is of another network."""
        states = sorted(folder.glob("*_model_states.pt"))[0]
        saved = self._files.opened(states)["module"]
        # DeepSpeed takes nothing but the trained weights from such a checkpoint.
        with torch.no_grad():
            for name, tensor in (*self.module.named_buffers(), *self._frozen()):
                if name in saved and saved[name].shape == tensor.shape:
                    tensor.copy_(saved[name])
        self._engine._config.load_universal_checkpoint = True
        try:
            self.load(folder)
        finally:
            self._engine._config.load_universal_checkpoint = False

    def _frozen(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Weights that are not trained, where a rank has them whole."""
        whole = self._config.zero_stage < 3
        return ((name, p) for name, p in self.module.named_parameters() if whole and not p.requires_grad)

    def load(self, folder: Path) -> None:
        """Restore what `read` has opened. Collective.

        Raises:
            ValueError: the checkpoint is of another world size, network or ZeRO stage.
        """
        try:
            path, _ = self._engine.load_checkpoint(
                str(folder.parent), tag=folder.name, load_module_strict=self._saves_frozen
            )
        except Exception as error:  # DeepSpeed raises its own, bare AssertionErrors and torch's
            raise ValueError(
                f"checkpoint {folder} cannot be resumed (another world size, network or ZeRO stage): "
                f"{_first_line(error)}"
            ) from None
        if path is None:
            raise ValueError(f"checkpoint {folder} holds no engine state")
