"""Graphs as programs of torch.export: `.pt2` files, and the first half of the way to ONNX."""

from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from fpd_core.atomic import replacing
from fpd_core.export.graph import Graph


@torch.no_grad()
def trace(graph: Graph) -> ExportedProgram:
    """The program of any batch size. On the meta device nothing is computed and no weight exists."""
    batch = Dim("batch", min=1)
    # An example of one image would make the batch size a constant.
    return torch.export.export(graph.eval(), graph.examples(2), dynamic_shapes=[{0: batch} for _ in graph.inputs])


def save_program(graph: Graph, path: Path) -> None:
    """Write `path`; `torch.export.load(path).module()` runs it without fpd."""
    program = trace(graph)
    with replacing(path) as partial, partial.open("wb") as file:
        torch.export.save(program, file)
