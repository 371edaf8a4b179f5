"""A student's page: `site/` of this package, the graphs, the runtime, and `model.json`, which the page reads first."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from fpd_core.atomic import write_bytes, write_text
from fpd_core.config import ConfigError
from fpd_core.demo import ort_web
from fpd_core.export.graph import Decoder, Denoiser, Graph, OneStep
from fpd_core.export.onnx_file import Weights, save_onnx
from fpd_core.export.vocabulary import description
from fpd_core.generator import Generator
from fpd_core.schedules import reveal_plan
from fpd_core.teachers import SamplerConfig, Teacher
from fpd_core.teachers.scenes import ScenesTeacher

STEPS = (2, 4, 8, 16, 32)
DEFAULT_STEPS = 8
TITLES = {"fashion": "Garments in one step", "scenes": "Scenes in one step"}


def build(generator: Generator, teacher: Teacher | None, site: Path, weights: Weights = "half") -> None:
    """Write the page into the folder `site`; any web server shows it, from any path, without a further request.

    Args:
        teacher: what the student is compared with; None leaves the comparison out.

    Raises:
        ConfigError: the student is no single graph, its captions need more than a list of words, the teacher is
            sampled in a way that the page does not know, or a tool is absent.
    """
    student = OneStep(generator)
    if generator.model.num_classes is None and not isinstance(generator.model, ScenesTeacher):
        raise ConfigError("the page splits captions at spaces and knows no byte pairs; use fpd-demo serve")
    plans = None if teacher is None else {str(steps): plan(teacher, steps) for steps in STEPS}
    graphs: dict[str, Graph] = {"student": student}
    if teacher is not None:
        graphs |= {"denoiser": Denoiser(teacher), "decoder": Decoder(teacher)}
    ort_web.place(site / "ort")
    for earlier in (site / "models").glob("*.onnx"):
        earlier.unlink()
    for name, graph in graphs.items():
        save_onnx(graph, site / "models" / f"{name}.onnx", weights=weights)
    for name, content in _pages():
        write_bytes(site / name, content)
    about: dict[str, Any] = {
        **description(student),
        "title": TITLES.get(str(generator.model.architecture()["name"]), "Pictures in one step"),
        "facts": f"Weights: {weights}. Runtime: onnxruntime-web {ort_web.VERSION} (MIT).",
        "files": {name: f"models/{name}.onnx" for name in graphs},
    }
    if plans is not None:
        about |= {"plans": plans, "default_steps": DEFAULT_STEPS}
    write_text(site / "model.json", json.dumps(about, indent=1) + "\n")


def plan(teacher: Teacher, steps: int) -> list[dict[str, float]]:
    """What the page's confidence sampler does in each of N steps: tokens fixed, g, temperature, noise of the ranking.

    Raises:
        ConfigError: the family's sampler has what the page's loop has not.
    """
    how = teacher.sampler_options("confidence", {})
    plain = {"confidence", "annealed_draws", "multiplier", "top_k", "timestep", "negative_prompt"}
    changed = [name for name in sorted(plain) if getattr(how, name) != SamplerConfig.model_fields[name].default]
    if changed:
        raise ConfigError(f"the page's sampler has no {', '.join(changed)}; build it with --no-teacher")
    counts = reveal_plan(teacher.seq_len, steps, how.schedule, how.rule)
    return [
        {
            "count": count,
            "guidance": float(how.guidance_at(progress)),
            "temperature": float(how.softmax_temperature_at(progress)),
            "noise": how.confidence_temperature * (1 - float(progress)),
        }
        for count, progress in zip(counts, _progress(how, steps), strict=True)
    ]


def _progress(how: SamplerConfig, steps: int) -> Iterator[torch.Tensor]:
    return (torch.tensor(how.progress(step, steps), dtype=torch.float64) for step in range(steps))


def _pages() -> Iterator[tuple[str, bytes]]:
    """Names and contents of the page's own files."""
    for file in files("fpd_core.demo").joinpath("site").iterdir():
        if file.name.endswith((".html", ".css", ".js")):
            yield file.name, file.read_bytes()
