"""fp16 and bf16: every tensor of the network in 16 bits, casts at its inputs and outputs.

Strongly typed runtimes (TensorRT 11) take precision from nothing else. Nodes whose operator does
not take the type, and operands that must stay float32 (the scales of Resize), get casts around
them. The interface stays float32, so that files of all precisions are used alike.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding.operator import constant_of

LARGEST_FLOAT16 = 65504.0

FIRST_OPSET, BF16_OPSET = 18, 22
"""Before the first of them ReduceMean and its like have their axes as an attribute; the second is
the first in which convolutions and pools take bfloat16."""

_NUMPY = {ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16}
_LARGEST = {ir.DataType.FLOAT16: LARGEST_FLOAT16, ir.DataType.BFLOAT16: 3.3895314e38}
_ONNX = {ir.DataType.FLOAT16: "tensor(float16)", ir.DataType.BFLOAT16: "tensor(bfloat16)"}


def typed_fp16(model: ir.Model) -> ir.Model:
    """``model``, which is not modified, computing in float16.

    Raises ``FBNError`` when a weight exceeds what float16 holds (65,504); fold with
    ``gauge_limit=FLOAT16_LIMIT`` then.
    """
    return _typed(model, ir.DataType.FLOAT16)


def typed_bf16(model: ir.Model) -> ir.Model:
    """``model``, which is not modified, computing in bfloat16; its opset becomes at least 22.

    Raises ``FBNError`` for an opset below 18.
    """
    return _typed(model, ir.DataType.BFLOAT16)


def _typed(model: ir.Model, dtype: ir.DataType) -> ir.Model:
    result = model.clone()
    if dtype == ir.DataType.BFLOAT16:
        _raise_opset(result)
    graph = result.graph
    opset = result.opset_imports.get("", 0)
    _convert_constants(graph, dtype, opset)
    kept: set[ir.Node] = set()
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", dtype)
        elif node.op_type == "Constant":
            continue
        elif not _takes(node, dtype, opset):
            _keep_float32(graph, node, dtype)
            kept.add(node)
            continue
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(dtype)
        _convert_fill(node, dtype)
    for node in list(graph):
        _cast_operands(graph, node, dtype, opset)
    _cast_interface(graph, dtype, kept)
    return result


def _cast_interface(graph: ir.Graph, dtype: ir.DataType, kept: Collection[ir.Node]) -> None:
    """Casts behind the inputs, except for readers ``kept`` in float32, and before the outputs;
    both keep their names and float32."""
    for value in graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            readers = [
                use for use in value.uses()
                if use.node.op_type != "Cast" and use.node not in kept
            ]  # fmt: skip
            cast = _cast(value, dtype)
            graph.insert_before(graph[0], cast)
            for use in readers:
                use.node.replace_input_with(use.idx, cast.outputs[0])
    for number, value in enumerate(graph.outputs):
        if value.dtype == dtype:
            name = value.name
            value.name = f"{name}_16"
            cast = _cast(value, ir.DataType.FLOAT)
            cast.outputs[0].name = name
            graph.append(cast)
            graph.outputs[number] = cast.outputs[0]


def _raise_opset(model: ir.Model) -> None:
    """From opset 18 on, the operators of these networks differ from 22 in their types only."""
    opset = model.opset_imports.get("", 0)
    if opset < FIRST_OPSET:
        raise FBNError(
            f"bf16 needs opset {FIRST_OPSET}, and the model has {opset}; convert it with "
            "onnx.version_converter."
        )
    if opset < BF16_OPSET:
        from onnxscript import version_converter

        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        version_converter.convert_version(model, BF16_OPSET)
    model.ir_version = max(model.ir_version or 0, 10)


def _convert_constants(graph: ir.Graph, dtype: ir.DataType, opset: int) -> None:
    """Initializers and Constant nodes of float32 in ``dtype``, but for operands such as the scales
    of Resize, which are float32 by definition."""
    too_large = []
    constants = list(graph.initializers.values())
    constants += [node.outputs[0] for node in graph if node.op_type == "Constant"]
    for value in constants:
        array = constant_of(value)
        if array is None or array.dtype != np.float32:
            continue
        if any(_is_float32_only(use.node, use.idx, opset) for use in value.uses()):
            continue
        with np.errstate(over="ignore"):
            converted = array.astype(_NUMPY[dtype])
        if np.any(np.isfinite(array) & ~np.isfinite(converted.astype(np.float32))):
            if not _is_bound(value):
                too_large.append(f"{value.name!r} ({np.abs(array).max():.3g})")
                continue
            largest = np.float32(_LARGEST[dtype])
            converted = np.clip(array, -largest, largest).astype(_NUMPY[dtype])
        tensor = ir.Tensor(converted, dtype=dtype, name=value.name)
        producer = value.producer()
        if producer is not None:
            producer.attributes.clear()
            producer.attributes["value"] = ir.AttrTensor("value", tensor)
        value.const_value = tensor
        value.type = ir.TensorType(dtype)
    if too_large:
        raise FBNError(
            f"{len(too_large)} constants exceed what {dtype.name.lower()} holds: "
            f"{', '.join(too_large[:5])}. Choose bf16 or fp32."
        )


def _convert_fill(node: ir.Node, dtype: ir.DataType) -> None:
    """The ``value`` of a ConstantOfShape, float32 unless said, in ``dtype``: its type is that of
    the output."""
    if node.op_type != "ConstantOfShape" or node.outputs[0].dtype != dtype:
        return
    given = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy()
    converted = ir.Tensor(fill.astype(_NUMPY[dtype]), dtype=dtype)
    node.attributes["value"] = ir.AttrTensor("value", converted)


def _is_float32_only(node: ir.Node, index: int, opset: int) -> bool:
    """Whether input ``index`` of the operator is float32 by its definition."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return False
    return index < len(schema.inputs) and schema.inputs[index].type_str == "tensor(float)"


def _cast_operands(graph: ir.Graph, node: ir.Node, dtype: ir.DataType, opset: int) -> None:
    """Casts where a node in ``dtype`` and an operand that stayed float32 meet, or the reverse."""
    if node.op_type == "Cast" or not any(value.dtype == dtype for value in node.outputs):
        return
    for index, value in enumerate(node.inputs):
        only = _is_float32_only(node, index, opset)
        if value is None or value.is_graph_input():
            continue
        if (only and value.dtype == dtype) or (not only and value.dtype == ir.DataType.FLOAT):
            cast = _cast(value, ir.DataType.FLOAT if only else dtype)
            graph.insert_before(node, cast)
            node.replace_input_with(index, cast.outputs[0])


def _is_bound(value: ir.Value) -> bool:
    """A bound of a Clip, of which the largest number of the type is as good."""
    return all(use.node.op_type == "Clip" for use in value.uses())


def _takes(node: ir.Node, dtype: ir.DataType, opset: int) -> bool:
    """Whether the operator's first output or input may have ``dtype``. What has no
    schema (other domains) does not."""
    if not any(value.dtype == ir.DataType.FLOAT for value in node.outputs):
        return True
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return False
    variable = schema.outputs[0].type_str
    allowed = {
        name: set(constraint.allowed_type_strs)
        for constraint in schema.type_constraints
        for name in (constraint.type_param_str,)
    }
    return _ONNX[dtype] in allowed.get(variable, {variable})


def _keep_float32(graph: ir.Graph, node: ir.Node, dtype: ir.DataType) -> None:
    """Casts around a node that computes in float32."""
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype == dtype:
            cast = _cast(value, ir.DataType.FLOAT)
            graph.insert_before(node, cast)
            node.replace_input_with(index, cast.outputs[0])
    for value in node.outputs:
        if value.dtype == ir.DataType.FLOAT:
            readers = list(value.uses())
            cast = _cast(value, dtype)
            graph.insert_after(node, cast)
            for use in readers:
                use.node.replace_input_with(use.idx, cast.outputs[0])


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], attributes={"to": int(dtype)})
    node.name = f"{value.name}/Cast_{dtype.name.lower()}"
    node.outputs[0].name = f"{value.name}_{dtype.name.lower()}"
    node.outputs[0].type = ir.TensorType(dtype)
    node.outputs[0].shape = value.shape
    return node
