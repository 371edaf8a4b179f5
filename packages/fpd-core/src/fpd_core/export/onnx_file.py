"""Graphs as ONNX files: conversion, precision of arithmetic, storage of weights."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from fpd_core.atomic import replacing, write_bytes
from fpd_core.config import ConfigError
from fpd_core.export.graph import Graph
from fpd_core.export.program import trace

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 23  # the newest that torch 2.11 writes
Precision = Literal["float32", "float16"]
Weights = Literal["full", "half", "int8"]
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
_SMALL = 256  # elements of a weight that is not worth a node of its own
_PROTOBUF_BYTES = 2**31 - 2**20  # beyond, weights lie in a file of their own


def save_onnx(graph: Graph, path: Path, precision: Precision = "float32", weights: Weights = "full") -> None:
    """Write `path`, and `path`.data beside it where the weights pass two gigabytes.

    Args:
        graph: converted in place to `precision`.
        precision: of the arithmetic; inputs and outputs stay float32, the draw and the softmax before it too.
        weights: as stored. `half` computes in `precision` from float16, without loss where the folder stores float16;
            `int8` turns matrices to eight bits per output channel, and what is multiplied by them as it comes.

    Raises:
        ConfigError: the packages of `fpd-core[onnx]` are absent, or eight bits are asked for in float16.
    """
    if (precision, weights) == ("float16", "int8"):
        raise ConfigError("products in int8 come back as float32: --weights int8 goes with --dtype float32")
    model = convert(graph.to(PRECISIONS[precision]))
    if weights == "int8":
        model = _with_eight_bits(model)
    if weights != "full":
        _store_half(model)
    _save(model, path)


def convert(graph: Graph) -> "ModelProto":
    """The graph of any batch size, its axis named `batch`. Raises ConfigError: as `save_onnx`."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("ONNX files need onnx, onnxscript and onnxruntime: pip install 'fpd-core[onnx]'") from None
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its tree specs
        program = torch.onnx.export(
            trace(graph),
            dynamo=True,
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=graph.outputs,
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    model.doc_string = f"{type(graph).__name__} of fpd"
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == symbol:
                size.dim_param = "batch"
    return model


def _with_eight_bits(model: "ModelProto") -> "ModelProto":
    """Matrix products in int8 by onnxruntime's dynamic quantization; convolutions and tables stay."""
    import tempfile

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        logging.getLogger().setLevel(logging.ERROR)  # it advises a preprocessing that the optimizer has done
        quantize_dynamic(
            model, out, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QUInt8
        )
        return onnx.load(out)


def _store_half(model: "ModelProto") -> None:
    """Keep float32 weights as float16 behind a cast, which runtimes fold when they load."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        size: Any = np.prod(weight.dims)
        if weight.data_type != TensorProto.FLOAT or size < _SMALL:
            continue
        values, name = numpy_helper.to_array(weight), weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [weight.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _save(model: "ModelProto", path: Path) -> None:
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    if sum(len(weight.raw_data) for weight in model.graph.initializer) < _PROTOBUF_BYTES:
        write_bytes(path, model.SerializeToString())
        return
    with replacing(path) as partial:
        onnx.save_model(model, partial, save_as_external_data=True, location=f"{path.name}.data")
