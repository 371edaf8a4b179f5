"""The only file that knows DeepSpeed: one engine per trained network.

Frozen networks stay plain modules outside every engine. A second network's loss must pass through `Engine.module`, not
through the engine itself, and each engine gets one backward per micro-batch: other wirings are wrong in silence.
"""

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch import distributed as dist

from fpd_core.config import Config, Number, Share, Size, Steps, Whole
from fpd_train.errors import NonFiniteError

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
import deepspeed
from deepspeed.utils import logger, safe_get_full_fp32_param


class OptimizerConfig(Config):
    """AdamW and its learning-rate schedule."""

    lr: Number = Field(1e-5, gt=0, le=1, description="Peak learning rate.")
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Number = Field(1e-8, ge=1e-16, le=1)
    weight_decay: Number = Field(0.0, ge=0, le=10)
    warmup_steps: Whole = Field(100, ge=0, le=10**6, description="Linear warm-up, in optimizer steps.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="After the warm-up; cosine ends at zero.")
    clip: Number = Field(1.0, ge=0, le=1e6, description="Global gradient norm limit; 0 switches clipping off.")


class EngineConfig(Config):
    """How DeepSpeed runs a network."""

    zero_stage: Whole = Field(1, ge=0, le=3, description="1 or 2 suits networks up to a billion parameters.")
    precision: Literal["float32", "bfloat16"] = "float32"
    accumulation: Size = Field(
        1, description="Micro-batches per step. The drift loss couples a batch, so prefer a larger micro-batch."
    )
    max_skipped: Steps = Field(20, description="Non-finite steps in a row after which training stops.")

    @model_validator(mode="after")
    def _masters_exist(self) -> "EngineConfig":
        if self.zero_stage == 0 and self.precision != "float32":
            raise ValueError("zero_stage 0 keeps no float32 masters for bfloat16; use zero_stage 1")
        return self


def start_processes(device: str) -> tuple[int, int, torch.device]:
    """Join the process group; a plain `python` start becomes a group of one.

    Returns:
        rank, world size, this rank's device.
    """
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(29500 + os.getpid() % 2000))
    logger.setLevel(logging.ERROR)
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if not use_cuda:
        # The shared-memory op compiles for a minute and a killed compile hangs later runs; gloo is enough on CPUs.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if use_cuda else "gloo", verbose=False)
    local = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(local)
    return dist.get_rank(), dist.get_world_size(), local


def stop_processes() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true on any rank. Collective."""
    if dist.get_world_size() == 1:
        return flag
    vote = torch.tensor([float(flag)], device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MAX)
    return bool(vote.item())


def barrier() -> None:
    """Wait for every rank."""
    dist.barrier()


def _deepspeed_config(engine: EngineConfig, optimizer: OptimizerConfig, micro_batch: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": engine.accumulation,
        "zero_optimization": {"stage": engine.zero_stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": optimizer.clip,
        "steps_per_print": 10**9,
    }
    if engine.precision == "bfloat16":
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def learning_rate_factor(step: int, optimizer: OptimizerConfig, steps: int) -> float:
    """Share of the peak learning rate at an optimizer step (0-based)."""
    if step < optimizer.warmup_steps:
        return (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return 1.0
    progress = (step - optimizer.warmup_steps) / max(1, steps - optimizer.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Engine:
    """A trained network: forward through the engine, one backward per micro-batch, a step that may be skipped."""

    def __init__(
        self, module: nn.Module, engine: EngineConfig, optimizer: OptimizerConfig, *, micro_batch: int, steps: int
    ) -> None:
        trainable = [p for p in module.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(
            trainable, optimizer.lr, betas=optimizer.betas, eps=optimizer.eps, weight_decay=optimizer.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: learning_rate_factor(step, optimizer, steps))
        self._config = engine
        self._skipped_in_a_row = 0
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            lr_scheduler=schedule,
            model_parameters=trainable,
            config=_deepspeed_config(engine, optimizer, micro_batch),
        )

    @property
    def module(self) -> nn.Module:
        """The plain network: for losses of another engine that pass through this one."""
        module: nn.Module = self._engine.module
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def update(self, loss: Tensor) -> bool:
        """Backward, and at the end of an accumulation the step. Returns whether weights changed.

        Raises:
            NonFiniteError: `max_skipped` steps in a row were skipped.
        """
        # ZeRO skips steps with non-finite gradients; plain float32 (stage 0) would apply them, so decide it here.
        if self._config.zero_stage == 0 and any_rank(not bool(loss.isfinite()), loss.device):
            self._engine.zero_grad()
            self._count(False)
            return False
        self._engine.backward(loss)
        boundary = bool(self._engine.is_gradient_accumulation_boundary())
        self._engine.step()
        if not boundary:
            return False
        applied = bool(self._engine.was_step_applied())
        self._count(applied)
        return applied

    def _count(self, applied: bool) -> None:
        self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= self._config.max_skipped:
            raise NonFiniteError(
                f"{self._skipped_in_a_row} steps in a row had a non-finite loss or gradient; "
                "lower optimizer.lr or resume from an earlier checkpoint"
            )

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

    def buffers(self) -> dict[str, Tensor]:
        """The network's buffers by name."""
        return dict(self._engine.module.named_buffers())

    def save(self, folder: Path) -> None:
        """Optimizer, schedule and weights under `folder`. Collective."""
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
        if dist.get_rank() == 0:
            for script in ("zero_to_fp32.py", "zero_to_torch.py"):  # runs export their own safetensors
                (folder.parent / script).unlink(missing_ok=True)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote. Collective.

        Raises:
            ValueError: the checkpoint is missing or of another world size or ZeRO stage.
        """
        try:
            path, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name)
        except Exception as error:  # DeepSpeed raises its own, bare AssertionErrors and torch's
            raise ValueError(
                f"checkpoint {folder} cannot be resumed (another world size, ZeRO stage or a damaged file): "
                f"{type(error).__name__} {error}"
            ) from None
        if path is None:
            raise ValueError(f"checkpoint {folder} holds no engine state")
