"""What diffusers reads of an exported student: an index, a scheduler's settings, and code that imports fpd_core.

Text alone, so that fpd exports without diffusers. The code beside a component is there because diffusers downloads only
components whose code the repository holds; `fpd_core` itself never reads any of these files.
"""

import json
from pathlib import Path

from fpd_core.atomic import write_text
from fpd_core.generation_config import GenerationConfig

PIPELINE, INDEX = "pipeline.py", "model_index.json"
MODEL, SCHEDULER = "student", "scheduler"  # components; their code is `<name>/<name>_code.py`
DIFFUSERS = "0.42.0"  # the oldest that the pipeline is meant for
# How a student is sampled -> the scheduler that does it step by step.
SCHEDULERS = {"refill": "OneStepScheduler", "ancestral": "AncestralScheduler", "confidence": "SourceScheduler"}
_CODE = '''"""{what} of an fpd student for diffusers; `pip install "fpd-core[diffusers]"` holds the rest."""

from fpd_core.pipeline import (
{names}
)

__all__ = [{quoted}]
'''
_NAMES = {
    PIPELINE: ("The pipeline", ["FpdPipeline"]),
    f"{MODEL}/{MODEL}_code.py": ("The network", ["StudentModel"]),
    f"{SCHEDULER}/{SCHEDULER}_code.py": (
        "The schedulers",
        ["AncestralScheduler", "ConfidenceScheduler", "HaltonScheduler", "OneStepScheduler", "SourceScheduler"],
    ),
}


def scheduler_config(generation: GenerationConfig, mask_id: int) -> dict[str, object]:
    """Settings of the scheduler that samples as `generation` says."""
    return {
        "mask_token_id": mask_id,
        "init_mask_ratio": generation.init_mask_ratio,
        "num_inference_steps": generation.steps,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "rule": generation.rule,
        "confidence_temperature": generation.ranking_noise,
    }


def write_pipeline(folder: Path, generation: GenerationConfig, mask_id: int) -> None:
    """Write the files beside the weights of `folder`, which is made where it does not exist."""
    scheduler = SCHEDULERS[generation.sampler]
    index = {
        "_class_name": ["pipeline", "FpdPipeline"],
        "_diffusers_version": DIFFUSERS,
        MODEL: [f"{MODEL}_code", "StudentModel"],
        SCHEDULER: [f"{SCHEDULER}_code", scheduler],
    }
    settings = {"_class_name": scheduler, "_diffusers_version": DIFFUSERS, **scheduler_config(generation, mask_id)}
    texts = {
        INDEX: json.dumps(index, indent=2) + "\n",
        f"{SCHEDULER}/scheduler_config.json": json.dumps(settings, indent=2) + "\n",
    }
    for path, (what, names) in _NAMES.items():
        quoted = ", ".join(f'"{name}"' for name in names)
        texts[path] = _CODE.format(what=what, names="\n".join(f"    {name}," for name in names), quoted=quoted)
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / path, text)
