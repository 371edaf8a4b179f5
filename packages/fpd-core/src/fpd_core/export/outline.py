"""Public families at full size, traced on the meta device: the proof that they export, without a byte of weights."""

from dataclasses import dataclass

import torch

from fpd_core.config import ConfigError
from fpd_core.export.graph import OneStep
from fpd_core.export.program import trace
from fpd_core.generator import GenerationConfig, Generator
from fpd_core.teachers import Teacher, rebuild


@dataclass(frozen=True)
class Outline:
    """What tracing found: parameters, nodes of the graph, shapes of inputs and outputs, `batch` left free."""

    parameters: int
    nodes: int
    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        shapes = {**self.inputs, **self.outputs}
        named = ", ".join(f"{name} [{', '.join(shape)}]" for name, shape in shapes.items())
        return f"{self.parameters:,} parameters, {self.nodes} nodes: {named}"


def public_sizes(family: str) -> Teacher:
    """A family's modules at the published sizes, on the meta device. Raises ConfigError: a family without them."""
    sections = {"maskgit": ("network", "tokenizer"), "maskgen": ("network", "tokenizer", "text")}
    if family not in sections:
        raise ConfigError(f"no published size of {family!r} is outlined; known: {', '.join(sections)}")
    score = {"aesthetic_score": 6.5} if family == "maskgen" else {}
    with torch.device("meta"):
        return rebuild({"name": family, **{part: {} for part in sections[family]}, **score})


def outline(family: str) -> Outline:
    """The one-step graph of a public family. Raises ConfigError: see `public_sizes`."""
    graph = OneStep(Generator(public_sizes(family), GenerationConfig(), {}))
    program = trace(graph)
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    ends = [
        dict(zip(names, found, strict=True))
        for names, found in (
            (graph.inputs, program.graph_signature.user_inputs),
            (graph.outputs, program.graph_signature.user_outputs),
        )
    ]
    inputs, outputs = (
        {
            name: tuple("batch" if isinstance(n, torch.SymInt) else str(n) for n in values[node].shape)
            for name, node in end.items()
        }
        for end in ends
    )
    parameters = sum(p.numel() for p in graph.parameters())
    return Outline(parameters, len(program.graph.nodes), inputs, outputs)
