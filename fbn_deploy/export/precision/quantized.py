"""INT8 by Q/DQ pairs: symmetric, one scale a tensor for activations and one a channel for
weights; biases stay fp32.

Activations are signed, q = round(x · 127 / amax) with zero point 0, as TensorRT demands; or
unsigned, as ONNX Runtime's kernels for x86 want them: the same q with zero point 128, and where no
value is negative q = round(x · 255 / amax) with zero point 0. Such a pair cuts off what a ReLU
before it cuts off, and a ReLU6 if amax ≤ 6; ONNX Runtime then drops the activation and runs the
convolution in integers, which it does not where anything stands between it and its pair.

Bias correction (Nagel et al. 2019, section 4.2): with rounded weights ŵ the outputs of a layer
are off by (ŵ − w) x, on average by (ŵ − w) E[x], which is taken out of the bias. E[x] is each
channel's mean over the calibration images; that a border sees zeros instead is neglected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding.operator import constant_of
from fbn_deploy.export.histogram import LEVELS, UNSIGNED_LEVELS
from fbn_deploy.export.precision import weights
from fbn_deploy.export.precision.placement import (
    LINEAR,
    Use,
    is_nonnegative,
    mean_root,
    refuse_nothing,
    root,
    uses,
)
from fbn_deploy.export.ranges import Ranges

OPSET = 13
"""The first in which DequantizeLinear takes one scale a channel."""

Floats = npt.NDArray[np.float32]


def quantized_int8(
    model: ir.Model,
    ranges: Ranges,
    *,
    keep_fp32: Sequence[str] = (),
    weights_by_mse: bool = False,
    correct_bias: bool = True,
    weight_levels: int = weights.LEVELS,
    unsigned: bool = False,
) -> ir.Model:
    """``model``, which is not modified, with Q/DQ pairs at ``placement.uses`` and INT8 weights.

    ``ranges`` holds the tensors that ``placement.activations`` names. ``keep_fp32`` names nodes or
    modules that stay as they are. ``weight_levels`` is the largest integer weight; see
    ``weights`` for processors that need less than 127. ``unsigned``: activations are uint8.

    Raises ``FBNError`` for names that match nothing, ranges that lack a tensor, an opset below 13,
    and a model that has nothing to quantise.
    """
    if model.opset_imports.get("", 0) < OPSET:
        raise FBNError(f"INT8 needs opset {OPSET}; convert the model with onnx.version_converter.")
    result = model.clone()
    found = uses(result.graph, keep_fp32, unsigned)
    refuse_nothing(found)
    sources = [root(use.value).name or "" for use in found]  # before pairs change the graph
    one_sided = {
        source
        for use, source in zip(found, sources, strict=True)
        if unsigned and is_nonnegative(use.value)
    }
    lacking = set(sources) - ranges.amax.keys()
    if lacking:
        raise FBNError(
            f"The ranges lack {len(lacking)} tensors, {sorted(lacking)[0]!r} for one: they are of "
            "another model. Calibrate this one."
        )
    pairs = _Pairs(result.graph, ranges, unsigned, one_sided)
    layers = {
        use.node: pairs.scale(source)
        for use, source in zip(found, sources, strict=True)
        if use.node.op_type in LINEAR
    }
    for node in layers:
        _drop_ignored_bias(result.graph, node)
    means = {node: _means(node, ranges) for node in layers}
    least = _least_scales(layers)
    for use, source in zip(found, sources, strict=True):
        pairs.quantize(use, source)
    stored: dict[tuple[ir.Value, int], ir.Value] = {}  # layers may share a weight
    for node in layers:
        weight, value = _weight(node)
        axis = _axis(node)
        scales = weights.channel_scales(
            weight, axis, weights_by_mse, weight_levels, least[value, axis]
        )
        integers = weights.quantized(weight, scales, axis, weight_levels)
        if (value, axis) not in stored:
            stored[value, axis] = _store(result.graph, node, value, integers, scales, axis)
        node.replace_input_with(1, stored[value, axis])
        _drop_unread(result.graph, value)
        seen = means[node]
        if correct_bias and seen is not None:
            error = weights.restored(integers, scales, axis) - weight
            _add_to_bias(result.graph, node, -_response(node, error, seen))
    return result


class _Pairs:
    """The Q/DQ pairs of a graph, one for each tensor; those of ``one_sided`` start at zero."""

    def __init__(
        self, graph: ir.Graph, ranges: Ranges, unsigned: bool, one_sided: Collection[str]
    ) -> None:
        self._graph, self._ranges = graph, ranges
        self._unsigned, self._one_sided = unsigned, one_sided
        self._done: dict[ir.Value, ir.Value] = {}
        self._scales: dict[str, ir.Value] = {}
        self._zeros: dict[int, ir.Value] = {}  # zero point → its constant

    def quantize(self, use: Use, source: str) -> None:
        """Lets ``use`` read its tensor through a pair with the range of ``source``."""
        value = use.value
        if value not in self._done:
            self._done[value] = self._pair(value, source)
        use.node.replace_input_with(use.index, self._done[value])

    def scale(self, source: str) -> float:
        """What one step of a pair with the range of ``source`` is worth."""
        return self._ranges.amax[source] / (
            UNSIGNED_LEVELS if source in self._one_sided else LEVELS
        )

    def _pair(self, value: ir.Value, source: str) -> ir.Value:
        one_sided = source in self._one_sided
        zero = self._zero(128 if self._unsigned and not one_sided else 0)
        if source not in self._scales:
            scale = np.array(self.scale(source), np.float32)
            self._scales[source] = _initializer(self._graph, f"{source}_scale", scale)
        scale_value = self._scales[source]
        q = _node("QuantizeLinear", value, scale_value, zero, f"{value.name}_quantized")
        q.outputs[0].type = zero.type
        dq = _node("DequantizeLinear", q.outputs[0], scale_value, zero, f"{value.name}_dequantized")
        dq.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        for node in (q, dq):
            node.outputs[0].shape = value.shape
        producer = value.producer()
        if producer is not None:
            self._graph.insert_after(producer, (q, dq))
        else:
            self._graph.insert_before(self._graph[0], (q, dq))
        return dq.outputs[0]

    def _zero(self, point: int) -> ir.Value:
        if point not in self._zeros:
            kind = np.uint8 if self._unsigned else np.int8
            name = f"{np.dtype(kind).name}_zero_point"
            self._zeros[point] = _initializer(self._graph, name, np.array(point, kind))
        return self._zeros[point]


def _means(node: ir.Node, ranges: Ranges) -> Floats | None:
    """E[x] by input channel of a layer; None where it was not observed or has other channels."""
    value = node.inputs[0]
    assert value is not None, node.name
    found = ranges.means.get(mean_root(value).name or "")
    weight, _ = _weight(node)
    if node.op_type == "Conv":
        channels = weight.shape[1] * node.attributes.get_int("group", 1)
    else:
        channels = weight.shape[1 - _axis(node)]
    if node.op_type in ("MatMul", "ConvTranspose") or found is None or len(found) != channels:
        return None
    return np.array(found, np.float32)


def _least_scales(layers: Mapping[ir.Node, float]) -> dict[tuple[ir.Value, int], Floats]:
    """A weight and its axis → the least scale of each channel, (channels,) or (1,), that the bias
    of every layer that reads it allows. ``layers`` → the scales of their inputs."""
    least: dict[tuple[ir.Value, int], Floats] = {}
    for node, scale in layers.items():
        bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
        rows = np.zeros((1, 1)) if bias is None else np.abs(np.atleast_2d(bias))
        _, value = _weight(node)
        key = value, _axis(node)
        own = weights.least_scales(rows.max(axis=0), scale)
        least[key] = np.maximum(least[key], own) if key in least else own
    return least


def _drop_ignored_bias(graph: ir.Graph, node: ir.Node) -> None:
    """Takes the bias from a Gemm that multiplies it by 0, so that it may get another one."""
    if node.op_type != "Gemm" or node.attributes.get_float("beta", 1.0) != 0:
        return
    old = node.inputs[2] if len(node.inputs) > 2 else None
    node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    node.resize_inputs(2)
    if old is not None:
        _drop_unread(graph, old)


def _store(
    graph: ir.Graph,
    node: ir.Node,
    weight: ir.Value,
    integers: npt.NDArray[np.int8],
    scales: Floats,
    axis: int,
) -> ir.Value:
    """INT8 weights with a DequantizeLinear before ``node``, their first reader; what it gives.
    Where readers differ in the axis, each axis has weights of its own."""
    name = weight.name or node.name
    if f"{name}_quantized" in graph.initializers:
        name = f"{name}_axis{axis}"
    dq = _node(
        "DequantizeLinear",
        _initializer(graph, f"{name}_quantized", integers),
        _initializer(graph, f"{name}_scale", scales),
        _initializer(graph, f"{name}_zero_point", np.zeros(len(scales), np.int8)),
        f"{name}_dequantized",
        axis=axis,
    )
    dq.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    dq.outputs[0].shape = ir.Shape(integers.shape)
    graph.insert_before(node, dq)
    return dq.outputs[0]


def _response(node: ir.Node, weight: Floats, x: Floats) -> Floats:
    """What a layer with ``weight`` gives, by output channel, for a constant input ``x``."""
    if node.op_type == "Gemm":
        return weight @ x if _axis(node) == 0 else x @ weight
    taps = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    groups = node.attributes.get_int("group", 1)
    grouped = taps.reshape(groups, -1, taps.shape[1])
    response: Floats = np.einsum("goi,gi->go", grouped, x.reshape(groups, -1)).reshape(-1)
    return response


def _add_to_bias(graph: ir.Graph, node: ir.Node, change: Floats) -> None:
    """A bias of its own with ``change`` added: the old one may be shared."""
    old = node.inputs[2] if len(node.inputs) > 2 else None
    bias = np.zeros_like(change)
    if old is not None:
        constant = constant_of(old)
        if constant is None:
            return
        bias = bias + constant.astype(np.float32)
    change = (
        change * node.attributes.get_float("alpha", 1.0) / node.attributes.get_float("beta", 1.0)
    )
    made = _initializer(graph, f"{node.name}.corrected_bias", (bias + change).astype(np.float32))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, made)
    if old is not None:
        _drop_unread(graph, old)


def _drop_unread(graph: ir.Graph, value: ir.Value) -> None:
    if not value.uses() and value.name is not None:
        graph.initializers.pop(value.name, None)


def _weight(node: ir.Node) -> tuple[Floats, ir.Value]:
    value = node.inputs[1]
    assert value is not None, node.name
    constant = constant_of(value)
    assert constant is not None, node.name
    return constant.astype(np.float32), value


def _axis(node: ir.Node) -> int:
    """The axis of a weight that numbers the output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.attributes.get_int("transB", 0) else 1


def _initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """A new constant of the graph; ``name`` gets a number where it is taken."""
    taken, unique, number = graph.initializers, name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _node(
    op: str, x: ir.Value, scale: ir.Value, zero: ir.Value, output: str, axis: int | None = None
) -> ir.Node:
    node = ir.node(op, [x, scale, zero], attributes=None if axis is None else {"axis": axis})
    node.name = f"{output.rsplit('_', 1)[0]}/{op}"
    node.outputs[0].name = output
    return node
