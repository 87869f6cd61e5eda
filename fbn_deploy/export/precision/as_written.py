"""A file computed as it is written, on the CPU, whatever its target's kernels would make of it.

ONNX Runtime fuses Q/DQ pairs into integer kernels, whose sums saturate on CPUs without VNNI, and
computes in float32 what a file says in 16 bits, as OpenVINO does with float16. So neither tells
whether a file is right that another target runs to the letter.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

_16_BITS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class AsWritten:
    """Q/DQ pairs in float32, by their definition; every tensor in 16 bits rounded to them.

    What is left is the order of sums, and that they are summed in float32.
    """

    name = "as written"
    precisions = ("fp16", "bf16", "int8")
    int8_weight_levels = 127

    def open(
        self, model: bytes | Path, *, batch: int, threads: int, precision: str = "fp32"
    ) -> AsWrittenSession:
        """An ONNX model, for any batch that it takes."""
        read = onnx.load(model) if isinstance(model, Path) else onnx.load_from_string(model)
        graph = ir.from_proto(read)
        graph = graph if precision == "int8" else rounded(graph)
        return AsWrittenSession(ir.to_proto(graph).SerializeToString(), threads)


class AsWrittenSession(AbstractContextManager["AsWrittenSession"]):
    """``run`` maps inputs to outputs, by name."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)

    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, inputs), strict=True))

    def __exit__(self, *error: object) -> None:
        del self._session


def rounded(model: ir.Model) -> ir.Model:
    """``model``, which is not modified, in float32, with every tensor that it holds in 16 bits cast
    there and back, which ONNX Runtime does not leave out."""
    result = model.clone()
    ShapeInferencePass()(result)  # for the types
    graph = result.graph
    for value in graph.initializers.values():
        if value.dtype in _16_BITS and value.const_value is not None:
            value.const_value = _widened(value.const_value)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        _widen_attributes(node)
        for value in node.outputs:
            if value.dtype in _16_BITS:
                _round(graph, node, value)
    return result


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _widen_attributes(node: ir.Node) -> None:
    """Constants and fills in 16 bits become float32; a Cast to 16 bits goes to float32."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _16_BITS:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor()))
    if node.op_type == "Cast" and node.attributes.get_int("to", 0) in _16_BITS:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    narrow, readers = value.dtype, list(value.uses())
    value.type = ir.TensorType(ir.DataType.FLOAT)
    there = ir.node("Cast", [value], attributes={"to": int(narrow or 0)})
    back = ir.node("Cast", [there.outputs[0]], attributes={"to": int(ir.DataType.FLOAT)})
    for each, ending, kind in ((there, "narrow", narrow), (back, "rounded", ir.DataType.FLOAT)):
        each.name = each.outputs[0].name = f"{value.name}/{ending}"
        each.outputs[0].type = ir.TensorType(kind or ir.DataType.FLOAT)
        each.outputs[0].shape = value.shape
    graph.insert_after(node, [there, back])
    for use in readers:
        use.node.replace_input_with(use.idx, back.outputs[0])
