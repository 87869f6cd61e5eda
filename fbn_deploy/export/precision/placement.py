"""Which tensors INT8 quantises, and for which of their readers.

Q/DQ pairs stand where TensorRT and OpenVINO look for them in order to fuse: on the data input of
convolutions and matrix products, on both inputs of a residual addition, on the input of pools.
None stands between a convolution and its activation, because an activation is no reader that
asks for one. A tensor that only moves values (MaxPool, Flatten) has the range of its source, so
that the pair behind it changes nothing and runtimes may move it through.

Where activations are uint8, for processors, an AveragePool stays in fp32: ONNX Runtime's integer
kernel is slow. With them in fp32, int8 networks of two NAS-Bench-201 cells with pools took 0.24 and
0.35 times as long on ONNX Runtime, 0.69 and 0.89 times on OpenVINO (medians of 130 runs in turns,
one thread of an Intel Xeon); in two such cells the logits' error was no larger.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.export.folding.operator import constant_of

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
NONNEGATIVE = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})
VIEWS = frozenset(
    {"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
SLOW_IN_UINT8 = frozenset({"AveragePool"})
SAME_CHANNELS = frozenset({"Flatten", "Identity"})  # of them, with the same means


@dataclass(frozen=True)
class Use:
    """Input ``index`` of ``node``, which reads a quantised tensor."""

    node: ir.Node
    index: int

    @property
    def value(self) -> ir.Value:
        value = self.node.inputs[self.index]
        assert value is not None, self.node.name
        return value


def activations(
    model: ir.Model, keep_fp32: Sequence[str] = (), unsigned: bool = False
) -> list[str]:
    """Names of the tensors whose ranges ``quantized_int8`` needs, in the order of the graph, and
    of those more whose means it needs. ``unsigned``: with activations in uint8."""
    found = uses(model.graph, keep_fp32, unsigned)
    ranged = [root(use.value) for use in found]
    averaged = [mean_root(use.value) for use in found if use.node.op_type in LINEAR]
    return list(dict.fromkeys(value.name for value in ranged + averaged if value.name))


def one_sided(model: ir.Model, keep_fp32: Sequence[str] = ()) -> set[str]:
    """Those of ``activations`` that uint8 holds from 0 on: no value of theirs is negative."""
    values = [use.value for use in uses(model.graph, keep_fp32, unsigned=True)]
    return {root(value).name or "" for value in values if is_nonnegative(value)}


def quantizable(model: ir.Model, unsigned: bool = False) -> list[str]:
    """Names of the nodes that INT8 runs, in the order of the graph."""
    return [
        node.name or ""
        for node in model.graph
        if _quantized_inputs(node) and not (unsigned and node.op_type in SLOW_IN_UINT8)
    ]


def uses(graph: ir.Graph, keep_fp32: Sequence[str], unsigned: bool = False) -> list[Use]:
    """Every place that reads a quantised tensor.

    ``keep_fp32`` are names of nodes, or patterns (``stage1_*``) or modules (``stem``), that stay
    in fp32. Raises ``FBNError`` for one that matches nothing.
    """
    kept = kept_nodes(graph, keep_fp32)
    kept |= {node for node in graph if unsigned and node.op_type in SLOW_IN_UINT8}
    found = [
        Use(node, index) for node in graph if node not in kept for index in _quantized_inputs(node)
    ]
    for use in list(found):
        producer = use.value.producer()
        while producer is not None and _is_view(producer):
            found.append(Use(producer, 0))
            producer = found[-1].value.producer()
    unique = {(use.node, use.index): use for use in found}
    order = {node: number for number, node in enumerate(graph)}
    return sorted(unique.values(), key=lambda use: (order[use.node], use.index))


def root(value: ir.Value) -> ir.Value:
    """The tensor whose values ``value`` shows."""
    return _source(value, VIEWS)


def mean_root(value: ir.Value) -> ir.Value:
    """The tensor whose means by channel are those of ``value``: a MaxPool keeps the largest of its
    source's values, so its range, and not its mean; what moves axes puts other channels there."""
    return _source(value, SAME_CHANNELS)


def _source(value: ir.Value, through: Collection[str]) -> ir.Value:
    """What ``value`` was before the operators ``through``."""
    producer = value.producer()
    while producer is not None and _is_view(producer) and producer.op_type in through:
        source = producer.inputs[0]
        assert source is not None, producer.name
        value, producer = source, source.producer()
    return value


def is_nonnegative(value: ir.Value) -> bool:
    """Whether ``value`` cannot be below zero, by the operator that made it."""
    producer = root(value).producer()
    if producer is None or producer.domain:
        return False
    if producer.op_type == "Clip":
        least = producer.inputs[1] if len(producer.inputs) > 1 else None
        bound = None if least is None else constant_of(least)
        return bound is not None and float(bound) >= 0
    if producer.op_type in POOLS:
        source = producer.inputs[0]
        return source is not None and is_nonnegative(source)
    return producer.op_type in NONNEGATIVE


def kept_nodes(graph: ir.Graph, names: Sequence[str]) -> set[ir.Node]:
    """The nodes that ``names`` say: each a node's name, a pattern, or the name of a module."""
    kept: set[ir.Node] = set()
    for name in names:
        if not (matching := _matching(graph, name)):
            raise unknown("layer that INT8 could run called", name, _names(graph))
        kept |= matching
    return kept


def matched(graph: ir.Graph, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that say a node of this graph, which may be a part of the whole."""
    return [name for name in names if _matching(graph, name)]


def _matching(graph: ir.Graph, name: str) -> set[ir.Node]:
    return {
        node
        for node in graph
        if _quantized_inputs(node)
        and (
            node.name == name
            or fnmatch.fnmatchcase(node.name or "", name)
            or (node.name or "").startswith((f"{name}/", f"{name}."))
        )
    }


def _names(graph: ir.Graph) -> list[str]:
    return [node.name or "" for node in graph if _quantized_inputs(node)]


def _quantized_inputs(node: ir.Node) -> tuple[int, ...]:
    """Which inputs of ``node`` are quantised; none of a node that INT8 does not run."""
    if node.domain or not all(_is_float(value) for value in node.outputs):
        return ()
    data = [i for i, value in enumerate(node.inputs) if value is not None and _is_data(value)]
    if node.op_type in LINEAR:
        return (0,) if data == [0] and _has_channel_scales(node) else ()
    if node.op_type == "Add":
        return (0, 1) if data == [0, 1] else ()
    return (0,) if node.op_type in POOLS and data == [0] else ()


def _has_channel_scales(node: ir.Node) -> bool:
    """Whether a layer has a constant weight that takes one scale an output channel: an axis of a
    grouped ConvTranspose numbers the channels of one group only, and a MatMul with a stack of
    matrices is refused by ONNX Runtime's kernel ("b zero point is not valid")."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    rank = 0 if weight is None else _rank(weight)
    if node.op_type == "MatMul":
        return rank == 2
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1:
        return False
    return rank >= 2 and not node.attributes.get_int("transA", 0)


def _is_view(node: ir.Node) -> bool:
    return node.op_type in VIEWS and not node.domain and len(node.outputs) == 1


def _is_data(value: ir.Value) -> bool:
    """Not a constant, nor a view of one."""
    return constant_of(root(value)) is None


def _rank(weight: ir.Value) -> int:
    constant = constant_of(weight)
    return 0 if constant is None else constant.ndim


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (None, ir.DataType.FLOAT)


def refuse_nothing(found: Sequence[Use]) -> None:
    """``FBNError`` when INT8 has nothing to do."""
    if not found:
        raise FBNError(
            "Nothing is left for INT8: the model has no convolution or matrix product with "
            "constant fp32 weights outside of --keep-fp32. Leave some of these names out."
        )
