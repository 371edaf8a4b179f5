"""What the networks of a run take, counted from the published numbers of parameters before anything is loaded."""

import os
from dataclasses import dataclass

from fpd_core.weights import RequiredFile
from fpd_train.config import TrainConfig

FLOAT32, BFLOAT16 = 4, 2
SMALLER = "--set method.teacher_precision=bfloat16 --set ema.enabled=false --set optimizer.first_moment=false"


@dataclass(frozen=True)
class Sizes:
    """Parameters of the teacher's transformer and of every other frozen network: (name, parameters, bytes of each)."""

    transformer: int
    frozen: list[tuple[str, int, int]]


def estimate(config: TrainConfig) -> list[str]:
    """Sentences for the person who waits; none for networks whose sizes nobody published, the bundled ones."""
    sizes = published_sizes(config)
    if sizes is None:
        return []
    parts = by_part(config, sizes)
    words = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    said = [f"memory: at least {sum(parts.values()) / 1e9:.1f} GB for networks ({words}); activations come on top"]
    method = config.method.model_copy(update={"teacher_precision": "bfloat16"})
    changed = {
        "method": method,
        "ema": config.ema.model_copy(update={"enabled": False}),
        "optimizer": config.optimizer.model_copy(update={"first_moment": False}),
    }
    if hasattr(config.method, "teacher_precision") and getattr(config.method, "adapter", None) is None:
        smaller = sum(by_part(config.model_copy(update=changed), sizes).values())
        if smaller < sum(parts.values()):
            said.append(f"memory: {smaller / 1e9:.1f} GB with {SMALLER}; adapters (method.adapter) take less still")
    return said


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no room, on a GPU or, in words only, on a CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def remedies(config: TrainConfig, world: int) -> list[str]:
    """Three settings that make a run smaller, the first to try first: those before precision change no result."""
    engine, drafts = config.engine, getattr(config.method, "drafts_per_condition", 1)
    half = config.micro_batch // 2
    is_distilled = hasattr(config.method, "lift")
    wanted = "all" if is_distilled else "student"
    found = []
    if half and half % drafts == 0:
        found.append(f"micro_batch={half} with engine.accumulation={2 * engine.accumulation} (the same batch)")
    if engine.activation_checkpointing != wanted:
        found.append(f"engine.activation_checkpointing={wanted}")
    if engine.zero_stage in (0, 1) and world > 1:
        found.append("engine.zero_stage=2" + ("" if engine.zero_stage else " (in a new output)"))
    if engine.offload == "off":
        found.append("engine.offload=optimizer" + ("" if engine.zero_stage else " with zero_stage=1 (in a new output)"))
    if engine.precision == "float32":
        found.append("engine.precision=bfloat16 (in a new output)")
    if getattr(config.method, "teacher_precision", "bfloat16") == "float32":
        found.append("method.teacher_precision=bfloat16 (in a new output)")
    if engine.zero_stage < 3 and world > 1:
        found.append("engine.zero_stage=3 (in a new output)")
    last = ["optimizer.first_moment=false", "ema.enabled=false", "a GPU with more memory"]
    return (found + last)[:3]


def published_sizes(config: TrainConfig) -> Sizes | None:
    """Sizes of the method's teacher and, where it has one, of its lift. None where they are not published."""
    teacher = getattr(config.method, "teacher", None)
    files = [] if teacher is None else _files(teacher)
    counts = {file.file.role: file.file.num_parameters or 0 for file in files}
    # Roles are called transformer, transformer_xl or small_384; the other two are called alike in every family.
    others = {role: count for role, count in counts.items() if role.startswith(("tokenizer", "text_encoder"))}
    transformer = sum(count for role, count in counts.items() if role not in others)
    if not transformer:
        return None
    spaces = config.method.lift.spaces if hasattr(config.method, "lift") else []
    frozen = [(role.replace("_", " "), count, FLOAT32) for role, count in others.items()]
    for space in spaces:
        backbone = getattr(space, "backbone", None)
        width = BFLOAT16 if getattr(backbone, "dtype", "") == "bfloat16" else FLOAT32
        for file in _files(backbone) if backbone is not None else []:
            frozen.append((file.file.role, file.file.num_parameters or 0, width))
    return Sizes(transformer, frozen)


def _files(section: object) -> list[RequiredFile]:
    """Published files of a section, also of one that fills its networks by formula."""
    copy = getattr(section, "model_copy", None)
    if copy is None or not hasattr(section, "required_files"):
        return []
    files: list[RequiredFile] = copy(update={"weights": "public"}).required_files()
    return files


def by_part(config: TrainConfig, sizes: Sizes) -> dict[str, int]:
    """Bytes on one rank by part. ZeRO shares masters and optimizer from stage 1, gradients from 2, weights from 3."""
    count, stage, world = sizes.transformer, config.engine.zero_stage, int(os.environ.get("WORLD_SIZE", "1"))
    is_half = config.engine.precision == "bfloat16"
    is_adapted = getattr(config.method, "adapter", None) is not None
    trained = 0 if is_adapted else count
    shared = [world if stage >= least else 1 for least in (1, 2, 3)]
    weights = count * BFLOAT16 if is_half else trained * FLOAT32
    teacher = BFLOAT16 if getattr(config.method, "teacher_precision", "") == "bfloat16" else FLOAT32
    parts = {
        "student": weights // shared[2],
        "masters": (trained * FLOAT32 if stage else 0) // shared[0],
        "gradients": trained * FLOAT32 // shared[1],
        "optimizer": trained * FLOAT32 * (2 if config.optimizer.first_moment else 1) // shared[0],
        "EMA": trained * FLOAT32 if config.ema.enabled else 0,
        "teacher": count * teacher,
        **{name: number * width for name, number, width in sizes.frozen},
    }
    return {name: size for name, size in parts.items() if size}
