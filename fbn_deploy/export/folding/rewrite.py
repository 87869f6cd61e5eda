"""Writes the chosen gauges into the graph: new weights and biases, and what has to stay.

What stays with a shift is written as a depthwise 1×1 convolution where the tensor is an image: ONNX
Runtime keeps such a node in its blocked layout and fuses the addition that follows into it,
whereas an Add of one number a channel makes it convert the whole tensor there and back (1.2 to
1.5 times the latency of small cells). A scale alone is a Mul, which both CPU runtimes fuse. It
is one in int8 too: as convolutions they took five cells of NAS-Bench-201 1.12 times the processor
time on ONNX Runtime (0.92 to 1.34) and 1.06 times on OpenVINO (1.00 to 1.10), no nearer to fp32.
Elsewhere it is a Mul and an Add.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from fbn_deploy.export.folding.forest import Scales
from fbn_deploy.export.folding.kinds import Affine, AnyArray, Array, Linear
from fbn_deploy.export.folding.layout import reduced
from fbn_deploy.export.folding.network import Network, Step
from fbn_deploy.export.folding.operator import shape_of
from fbn_deploy.export.folding.shifts import Shifts

UNIT = 1e-9
"""|s' − 1| below which a scale is the rounding of a product of ratios in double precision."""


@dataclass(frozen=True)
class Left:
    """An affine step that could not be removed: what it still does, and the node that does it."""

    step: Step
    s: Array
    t: Array
    node: ir.Node

    @property
    def scales(self) -> bool:
        return bool(np.any(self.s != 1.0))

    @property
    def shifts(self) -> bool:
        return bool(np.any(self.t))


@dataclass
class Rewritten:
    """What was done to the graph."""

    left: list[Left] = field(default_factory=list)
    removed: list[Step] = field(default_factory=list)
    reweighted: list[Step] = field(default_factory=list)


class Rewriter:
    """Applies gauges to one graph, in place."""

    def __init__(
        self,
        graph: ir.Graph,
        network: Network,
        scales: Scales,
        shifts: Shifts,
        as_convolution: bool,
    ) -> None:
        self.graph = graph
        self.network = network
        self.scales = scales
        self.shifts = shifts
        self.as_convolution = as_convolution
        self.done = Rewritten()
        self.now: dict[ir.Value, ir.Value] = {}
        values = {value.name for node in graph.all_nodes() for value in node.outputs}
        inputs = {value.name for value in graph.inputs}
        nodes = {node.name for node in graph.all_nodes()}
        self.names = {*values, *inputs, *nodes, *graph.initializers}

    def run(self) -> Rewritten:
        """Rewrites every step; nodes that nothing reads any more are left for a later pass."""
        for step in self.network.steps:
            if isinstance(step.kind, Linear):
                self._linear(step, step.kind)
            elif isinstance(step.kind, Affine):
                self._affine(step, step.kind)
        return self.done

    def _linear(self, step: Step, kind: Linear) -> None:
        x, y = step.inputs[0], step.outputs[0]
        d_x, p_x = self._channels(x, kind.layout_in())
        d_y, p_y = self._channels(y, kind.layout_out())
        trivial = np.all(d_x == 1) and np.all(d_y == 1) and not np.any(p_x) and not np.any(p_y)
        if trivial and len(step.nodes) == 1:
            return
        w, b = kind.regauged(d_x, p_x, d_y, p_y)
        node = step.nodes[0]
        name = node.name or y.name or node.op_type
        dtype = w.dtype
        given = node.outputs[0]
        node.replace_input_with(1, self._initializer(w, f"{name}.weight"))
        if node.op_type == "MatMul":
            given = self._with_bias(node, kind, b.astype(dtype), name) if np.any(b) else given
        elif np.any(b) or len(node.inputs) > 2:
            node.resize_inputs(3)
            node.replace_input_with(2, self._initializer(b.astype(dtype), f"{name}.bias"))
        if node.op_type == "Gemm":
            node.attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)
            node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
        self._replace(y, given)
        self.done.reweighted.append(step)

    def _with_bias(self, node: ir.Node, kind: Linear, bias: AnyArray, name: str) -> ir.Value:
        """A MatMul that needs a bias: a Gemm, or an Add behind it where it is no plain matrix."""
        b = self._initializer(bias, f"{name}.bias")
        if kind.rank_in == 2:
            return self._insert("Gemm", [*node.inputs, b], node.outputs[0], node)
        return self._insert("Add", [node.outputs[0], b], node.outputs[0], node)

    def _affine(self, step: Step, affine: Affine) -> None:
        x, y = step.inputs[0], step.outputs[0]
        d_x, d_y = self.scales.of(x), self.scales.of(y)
        if affine.is_fill:
            self._fill(step, d_y * (affine.t - self.shifts.of(y)))
            return
        s = np.broadcast_to(affine.s * d_y / d_x, d_y.shape)
        s = np.where(np.abs(s - 1.0) < UNIT, 1.0, s)
        t = np.broadcast_to(d_y * self.shifts.left_over(step, affine), d_y.shape)
        if np.all(s == 1.0) and not np.any(t):
            self._replace(y, self._current(x))
            self.done.removed.append(step)
        elif step.has_batchnorm or step.derived or self._moved(step):
            self._keep(step, s, t)

    def _moved(self, step: Step) -> bool:
        ends = (step.inputs[0], step.outputs[0])
        return any(np.any(self.scales.of(v) != 1) or np.any(self.shifts.of(v)) for v in ends)

    def _keep(self, step: Step, s: Array, t: Array) -> None:
        """Writes s x + t in the form that runtimes fuse best."""
        y, x = step.outputs[0], self._current(step.inputs[0])
        place, dtype = step.nodes[-1], _dtype(y, step.inputs[0])
        channels = s.size
        is_image = s.shape == (1, channels, 1, 1) and (channels > 1 or _has_one_channel(y))
        if self.as_convolution and is_image and np.any(t):
            w = self._initializer(s.reshape(channels, 1, 1, 1).astype(dtype), f"{step.name}.scale")
            b = self._initializer(t.reshape(channels).astype(dtype), f"{step.name}.shift")
            x = self._insert(
                "Conv", [x, w, b], y, place, {"group": channels, "kernel_shape": [1, 1]}
            )
        else:
            if np.any(s != 1.0):
                scale = self._initializer(s.astype(dtype), f"{step.name}.scale")
                x = self._insert("Mul", [x, scale], y, place)
                place = _producer(x)
            if np.any(t):
                shift = self._initializer(t.astype(dtype), f"{step.name}.shift")
                x = self._insert("Add", [x, shift], y, place)
        self._replace(y, x)
        self.done.left.append(Left(step, s, t, _producer(x)))

    def _fill(self, step: Step, c: Array) -> None:
        """The constant c in the shape of the input; the data of the input is not read."""
        y, x = step.outputs[0], self._current(step.inputs[0])
        value = self._initializer(c.astype(_dtype(y, step.inputs[0])), f"{step.name}.value")
        place, shape = step.nodes[-1], _shape_operand(x.producer())
        if shape is None:
            shape = self._insert("Shape", [x], y, place)
            shape.shape, shape.type = None, ir.TensorType(ir.DataType.INT64)
            place = _producer(shape)
        self._replace(y, self._insert("Expand", [value, shape], y, place))
        self.done.removed.append(step)

    def _channels(self, value: ir.Value, layout: tuple[int, ...]) -> tuple[Array, Array]:
        axes = [axis for axis, size in enumerate(layout) if size == 1]
        arrays = (self.scales.of(value), self.shifts.of(value))
        d, p = (np.broadcast_to(reduced(array, axes), layout).reshape(-1) for array in arrays)
        return d.astype(np.float64), p.astype(np.float64)

    def _current(self, value: ir.Value) -> ir.Value:
        while value in self.now:
            value = self.now[value]
        return value

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        """Everyone who reads ``old`` reads ``new``; a graph output keeps its name."""
        if old is new:
            return
        if old.is_graph_output():
            if new.is_graph_output() or new.is_graph_input() or new.producer() is None:
                producer = old.producer()
                assert producer is not None
                new = self._insert("Identity", [new], old, producer)
            name, old.name = old.name, self._fresh(f"{old.name}.unfolded")
            new.name = name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        self.now[old] = new

    def _insert(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        like: ir.Value,
        after: ir.Node,
        attributes: dict[str, int | list[int]] | None = None,
    ) -> ir.Value:
        name = self._fresh(f"{after.name or like.name}.{op_type.lower()}")
        node = ir.node(op_type, inputs, attributes, name=name)
        value = node.outputs[0]
        value.name, value.shape, value.type = self._fresh(f"{name}.out"), like.shape, like.type
        self.graph.insert_after(after, node)
        return value

    def _initializer(self, array: AnyArray, name: str) -> ir.Value:
        name = self._fresh(name)
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def _fresh(self, name: str) -> str:
        unique, number = name, 1
        while unique in self.names:
            unique, number = f"{name}.{number}", number + 1
        self.names.add(unique)
        return unique


def _shape_operand(maker: ir.Node | None) -> ir.Value | None:
    """The operand of ``maker`` that is the shape of its output, where it has one.

    The shape of an Expand is that only where a single number is expanded; it may hold ones where
    the other operand is larger.
    """
    if maker is None or maker.op_type not in ("Expand", "ConstantOfShape"):
        return None
    if maker.op_type == "Expand":
        spread = shape_of(maker.inputs[0])
        if spread is None or any(size != 1 for size in spread):
            return None
    return maker.inputs[-1]


def _has_one_channel(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 4 and value.shape[1] == 1


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _dtype(*values: ir.Value) -> np.dtype[np.generic]:
    """The precision of the first tensor whose precision is known."""
    known = [value.dtype for value in values if value.dtype is not None]
    return np.dtype((known or [ir.DataType.FLOAT])[0].numpy())
