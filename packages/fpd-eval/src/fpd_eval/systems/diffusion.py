"""Continuous rivals through diffusers pipelines: the optional extra `fpd-eval[diffusers]`."""

import importlib
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fpd_core.checkpoints import CheckpointError
from fpd_core.conditioning import Condition, PromptCondition
from fpd_core.config import Config, ConfigError, Guidance, Number, Size, Steps, Whole
from fpd_core.containers import load_public
from fpd_core.hashing import hash_tensors
from fpd_core.untrusted import require_files_only, shown
from fpd_eval.runtime.cache import hash_json
from fpd_eval.systems.flow_schedulers import OneStepScheduler, RectifiedFlowScheduler
from fpd_eval.systems.kind import SystemKind
from fpd_eval.systems.system import GeneratingSystem, Role, System

OWN_SCHEDULERS = {scheduler.__name__: scheduler for scheduler in (RectifiedFlowScheduler, OneStepScheduler)}
Timestep = Annotated[Whole, Field(ge=0, lt=10**6)]
REMEDY = "download it on a machine with network and name its folder as `repo`"


class Source(Config):
    """Weights in a repository of the Hugging Face hub or in a local folder of the same files."""

    repo: str = Field(description="Hub id, or a folder.")
    revision: str | None = Field(None, description="Commit or branch of the hub.")
    variant: str | None = Field(None, description="Such as fp16.")


class Replacement(Source):
    """Another UNet for the pipeline: a folder of diffusers, or one file with its state dict."""

    file: str | None = Field(None, description="Of the state dict; none for a folder of diffusers.")
    subfolder: str | None = Field(None, description="Of the repository, where the UNet lies.")


class Lora(Source):
    """Low-rank weights on top of the UNet."""

    file: str | None = Field(None, description="Of the weights, where diffusers does not find it by itself.")
    scale: Annotated[Number, Field(gt=0, le=100)] = Field(1.0, description="Factor of the low-rank part.")


class Scheduler(Config):
    """A class of diffusers or of `flow_schedulers`; what `options` leave out stays as the pipeline's own has it."""

    name: str = Field(description="Of the class.")
    options: dict[str, Any] = Field({}, description="Its arguments.")


class DiffusersKind(SystemKind):
    """A text-to-image pipeline with the settings its authors publish."""

    needs_prompts = True
    kind: Literal["diffusers"] = "diffusers"
    pipeline: Literal["StableDiffusionPipeline", "StableDiffusionXLPipeline", "LDMTextToImagePipeline"] = Field(
        description="Class of diffusers."
    )
    base: Source = Field(description="Weights of the whole pipeline.")
    unet: Replacement | None = Field(None, description="In place of the UNet of `base`.")
    lora: Lora | None = Field(None, description="On top of the UNet.")
    scheduler: Scheduler | None = Field(None, description="By default the pipeline's own.")
    steps: Steps = Field(description="Of the scheduler.")
    guidance_scale: Guidance = Field(description="As the pipeline takes it: guidance is off up to 1.")
    timesteps: tuple[Annotated[Whole, Field(ge=0, lt=10**6)], ...] | None = Field(
        None, description="In place of the scheduler's own."
    )
    negative_prompt: str | None = Field(None, description="What guidance leads away from; by default the empty prompt.")
    size: Size | None = Field(None, description="Pixels of both sides; by default the network's own.")
    dtype: Literal["float16", "bfloat16", "float32"] = Field("float16", description="Of the networks.")

    @model_validator(mode="after")
    def _one_per_step(self) -> "DiffusersKind":
        if self.timesteps is not None and len(self.timesteps) != self.steps:
            raise ValueError(f"{len(self.timesteps)} timesteps for {self.steps} steps")
        return self

    def load(self, device: torch.device) -> System:
        return DiffusersSystem(self, open_pipeline(self).to(device))


class DiffusersSystem(GeneratingSystem):
    """A pipeline as a system. Images of one seed are the same on every device up to its arithmetic."""

    role: Role = "external"

    def __init__(self, config: DiffusersKind, pipeline: Any) -> None:
        self.name, self.steps, self._config, self._pipeline = config.name, config.steps, config, pipeline
        self.settings = config.model_dump(mode="json", exclude_none=True, exclude={"kind", "name", "note"})
        pipeline.set_progress_bar_config(disable=True)
        # A network that takes the scale as an input needs no second pass for guidance.
        takes_scale = pipeline.unet.config.get("time_cond_proj_dim") is not None
        self.network_evaluations = config.steps * (2 if config.guidance_scale > 1 and not takes_scale else 1)
        networks = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
        weights = {name: hash_tensors(part.state_dict()) for name, part in networks.items()}
        schedule = dict(pipeline.scheduler.config)
        self.fingerprint = hash_json(["diffusers", weights, schedule, self.settings])

    @torch.no_grad()
    def images(self, condition: Condition, *, seed: int) -> Tensor:
        """[B, 3, H, W] in [0, 1]. Raises ValueError: the condition is no list of prompts."""
        if not isinstance(condition, PromptCondition):
            raise ValueError(f"{self.name} makes images of prompts, not of {type(condition).__name__}")
        config = self._config
        optional = {
            "height": config.size,
            "width": config.size,
            "negative_prompt": config.negative_prompt and [config.negative_prompt] * len(condition),
            "timesteps": config.timesteps and list(config.timesteps),
        }
        made = self._pipeline(
            list(condition.prompts),
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            **{name: value for name, value in optional.items() if value is not None},
        )
        return torch.from_numpy(made.images).permute(0, 3, 1, 2).float()


def open_pipeline(config: DiffusersKind) -> Any:
    """The pipeline with its UNet, low-rank weights and scheduler in place, on the CPU.

    Raises:
        ConfigError: diffusers is not installed, or has no such scheduler.
        CheckpointError: a repository or file cannot be read.
    """
    try:
        diffusers = importlib.import_module("diffusers")
    except ImportError:
        raise ConfigError(f"{config.name} needs diffusers: pip install 'fpd-eval[diffusers]'") from None
    # The checker of Stable Diffusion 1 and 2 answers prompts it dislikes with black images, which no metric should see.
    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    extra = unchecked if config.pipeline == "StableDiffusionPipeline" else {}
    pipeline = _open(config.name, config.base, getattr(diffusers, config.pipeline), torch_dtype=_dtype(config), **extra)
    if config.unet:
        _replace_unet(pipeline, config, config.unet)
    if config.lora:
        _add_lora(pipeline, config.name, config.lora)
    if config.scheduler:
        pipeline.scheduler = _scheduler(diffusers, pipeline.scheduler.config, config.scheduler)
    return pipeline


def _open(name: str, source: Source, cls: Any, **options: Any) -> Any:
    require_files_only(Path(source.repo), error=CheckpointError)
    try:
        return cls.from_pretrained(source.repo, revision=source.revision, variant=source.variant, **options)
    except Exception as error:  # whatever the library raises for a damaged folder
        raise _unreadable(name, source, error) from None


def _replace_unet(pipeline: Any, config: DiffusersKind, source: Replacement) -> None:
    """Load a state dict into the pipeline's own UNet, or take the UNet of a folder, whose shape may differ."""
    if source.file:
        load_public(pipeline.unet, _file(config.name, source, source.file))
        return
    options = {"subfolder": source.subfolder} if source.subfolder else {}
    pipeline.unet = _open(config.name, source, type(pipeline.unet), torch_dtype=_dtype(config), **options)


def _add_lora(pipeline: Any, name: str, lora: Lora) -> None:
    place = {"weight_name": lora.file, "revision": lora.revision}
    try:
        stored, _ = pipeline.lora_state_dict(lora.repo, **place)
        pipeline.load_lora_weights(lora.repo, adapter_name="distilled", **place)
    except (OSError, ValueError) as error:
        raise _unreadable(name, lora, error) from None
    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    placed = [value for part in networks for key, value in part.named_parameters() if ".lora_" in key]
    # diffusers only warns of keys that the networks lack, or leaves them without values.
    if len(placed) != sum(not key.endswith("alpha") for key in stored) or any(value.is_meta for value in placed):
        raise CheckpointError(f"{name}: {lora.repo} does not fit the network of the pipeline")
    pipeline.set_adapters(["distilled"], [lora.scale])


def _scheduler(diffusers: Any, own: dict[str, Any], wanted: Scheduler) -> Any:
    if wanted.name in OWN_SCHEDULERS:
        return OWN_SCHEDULERS[wanted.name](**wanted.options)
    if not wanted.name.endswith("Scheduler") or not hasattr(diffusers, wanted.name):
        raise ConfigError(f"diffusers has no scheduler {wanted.name!r}; fpd adds {' and '.join(OWN_SCHEDULERS)}")
    return getattr(diffusers, wanted.name).from_config(own, **wanted.options)


def _file(name: str, source: Source, file: str) -> Path:
    """A local file, or the hub's after its download."""
    if Path(source.repo).is_dir():
        return Path(source.repo) / file
    hub = importlib.import_module("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(source.repo, file, revision=source.revision))
    except (OSError, ValueError) as error:
        raise _unreadable(name, source, error) from None


def _unreadable(name: str, source: Source, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(f"{name}: {source.repo} cannot be read ({shown(reason)}); {REMEDY}")


def _dtype(config: DiffusersKind) -> torch.dtype:
    return {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[config.dtype]
