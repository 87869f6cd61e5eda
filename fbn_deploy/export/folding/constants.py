"""Tensors that are the same for every image: what a BatchNorm makes of a zero op.

If x is c everywhere then s x + t is s c + t everywhere, a pool of it is c again, Relu gives
max(c, 0), and a sum with another tensor is that tensor shifted by c. So a BatchNorm behind a
zero op is a shift (its β), and it is followed as one until something that has a border, such as
a padded convolution, needs the tensor itself; then it is filled with c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from fbn_deploy.export.folding.kinds import Affine, AnyArray, Array, Linear, Sum, View
from fbn_deploy.export.folding.network import Network, Step
from fbn_deploy.export.folding.operator import FLOATS, Operator, constant_of, shape_of


@dataclass(frozen=True)
class _Constant:
    """The value c of a tensor, and a tensor that has its shape and depends on data."""

    c: Array
    shaped_like: ir.Value


def follow_constants(network: Network) -> None:
    """Turns what is constant into fills, and sums with a constant into shifts; drops the rest."""
    known: dict[ir.Value, _Constant] = {}
    for step in network.steps:
        found = _value(step, known)
        output = step.outputs[0]
        if found is not None and output.shape is not None:
            known[output] = found
            anchor = found.shaped_like
            if anchor is not output and shape_of(anchor) == shape_of(output):
                step.kind = Affine(np.zeros_like(found.c), found.c)
                step.inputs = [anchor]
        elif isinstance(step.kind, Sum):
            _shift_by_constants(step, step.kind, known)
    network.drop_unread()


def _value(step: Step, known: dict[ir.Value, _Constant]) -> _Constant | None:
    """The constant that a step gives, or None where it depends on data or is not followed."""
    if len(step.outputs) != 1:
        return None
    if step.nodes[0].op_type in ("ConstantOfShape", "Expand") and not step.nodes[0].domain:
        return _spread(step, known)
    if step.nodes[0].op_type == "Cast" and step.outputs[0].dtype in FLOATS:
        return known.get(step.inputs[0]) if step.inputs else None
    inputs = [known.get(value) for value in step.inputs]
    parts = [part for part in inputs if part is not None]
    if isinstance(step.kind, Affine) and step.kind.is_fill:
        return _Constant(step.kind.t, parts[0].shaped_like if parts else step.inputs[0])
    if not parts or len(parts) < len(inputs):
        return None
    c = _computed(step, [part.c for part in parts])
    return None if c is None else _Constant(c, parts[0].shaped_like)


def _computed(step: Step, c: list[Array]) -> Array | None:
    kind = step.kind
    if isinstance(kind, Affine):
        return kind.s * c[0] + kind.t
    if isinstance(kind, Sum):
        return sum((sign * part for sign, part in zip(kind.signs, c, strict=True)), np.zeros(()))
    if isinstance(kind, Linear) and kind.border is None and c[0].size in (1, kind.inputs):
        unit = np.ones(kind.inputs), np.ones(kind.outputs)
        x = np.broadcast_to(c[0].reshape(-1), kind.inputs)
        _, y = kind.regauged(unit[0], x, unit[1], np.zeros(kind.outputs))
        return y.reshape(kind.layout_out())
    if isinstance(kind, View) and len(c) == 1:
        if step.nodes[0].op_type == "Relu":
            return np.maximum(c[0], 0.0)
        if kind.no_shift is None and all(c[0].shape[axis] == 1 for axis in kind.uniform):
            return kind.take(c)[0].astype(np.float64)
    return None


def _spread(step: Step, known: dict[ir.Value, _Constant]) -> _Constant | None:
    """ConstantOfShape, or Expand of one number: a fill that the exporter wrote."""
    node = step.nodes[0]
    rank = len(shape_of(step.outputs[0]) or ())
    single: AnyArray | None
    if node.op_type == "ConstantOfShape":
        tensor = Operator(node, 0).attribute("value", None)
        single = np.zeros(1, np.float32) if tensor is None else np.asarray(tensor.numpy())
    else:
        source = node.inputs[0]
        followed = known.get(source) if source is not None else None
        single = constant_of(source) if followed is None else followed.c
    if single is None or single.size != 1 or single.dtype.kind not in "fiuV":
        return None
    return _Constant(single.astype(np.float64).reshape((1,) * rank), step.outputs[0])


def _shift_by_constants(step: Step, kind: Sum, known: dict[ir.Value, _Constant]) -> None:
    """Makes a sum of one tensor and constants a shift of that tensor."""
    data = [i for i, value in enumerate(step.inputs) if value not in known]
    if len(data) != 1 or shape_of(step.inputs[data[0]]) != shape_of(step.outputs[0]):
        return
    t = sum(
        (
            sign * known[value].c
            for sign, value in zip(kind.signs, step.inputs, strict=True)
            if value in known
        ),
        np.zeros(()),
    )
    s = np.full(t.shape, float(kind.signs[data[0]]))
    step.kind, step.inputs, step.derived = Affine(s, t), [step.inputs[data[0]]], True
