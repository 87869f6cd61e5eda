"""One small rule for every operator: of which kind it is, or the reason why not.

A rule reads one node and gives its kind with the operands that are data, in the order the kind
wants them. To teach the pass an operator, write a rule and name it in ``RULES``; an operator
that only blocks needs a line in ``walls``. What stands in neither is a wall and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from fbn_deploy.export.folding import layout, linear
from fbn_deploy.export.folding.kinds import (
    Affine,
    AnyArray,
    Array,
    Blind,
    Blocked,
    Gate,
    Kind,
    Sum,
    View,
    Wall,
)
from fbn_deploy.export.folding.operator import Operator, constant_of, shape_of, size_of
from fbn_deploy.export.folding.walls import WALLS

Ruling: TypeAlias = tuple[Kind, Sequence[ir.Value]]
Rule: TypeAlias = Callable[[Operator], Ruling]

RECTIFIES = "f(D·x) = D·f(x) only for D > 0"
BENDS = "f(x + t) ≠ f(x) + t"
BESIDE_ZEROS = "a shift beside zero pads would be wrong at the border"
COUNTS_PADS = "the average counts zero pads, so a shift would be thinner at the border"


def _data(operator: Operator, index: int = 0) -> ir.Value:
    value = operator.input(index)
    if value is None:
        raise Blocked("it has no input")
    return value


def _same(arrays: Sequence[AnyArray]) -> Sequence[AnyArray]:
    return arrays


def identity(operator: Operator) -> Ruling:
    """Identity, and Dropout outside of training."""
    if any(output.uses() or output.is_graph_output() for output in operator.node.outputs[1:]):
        raise Blocked("its mask is read")
    training = operator.input(2)
    if training is not None:
        flag = constant_of(training)
        if flag is None or bool(flag):
            raise Blocked("it may drop values")
    return View(_same), [_data(operator)]


def rectifier(operator: Operator) -> Ruling:
    """Relu, LeakyRelu, Abs: positively homogeneous."""
    return View(_same, positive=RECTIFIES, no_shift=BENDS), [_data(operator)]


def prelu(operator: Operator) -> Ruling:
    """PRelu: its slopes multiply, whatever they are."""
    operator.required(1, "slope")
    _keeps_shape(operator, _data(operator))
    return rectifier(operator)


def clip(operator: Operator) -> Ruling:
    """Clip: a Relu when it cuts at 0 only; with other bounds (Relu6) a wall."""
    if operator.opset < 11:
        low, high = operator.attribute("min", None), operator.attribute("max", None)
    else:
        bounds = [operator.constant(index) for index in (1, 2)]
        if any(b is None and operator.input(i + 1) is not None for i, b in enumerate(bounds)):
            raise Blocked("its bounds are computed while the network runs")
        low, high = (None if b is None else float(b) for b in bounds)
    largest = 3.0e38
    if low == 0.0 and (high is None or high > largest):
        return rectifier(operator)
    raise Blocked("its bounds are fixed, a scale or a shift would move them")


def batchnorm(operator: Operator) -> Ruling:
    """BatchNormalization: s = γ / √(σ² + ε), t = β − s μ."""
    if operator.attribute("training_mode", 0) or operator.attribute("is_test", 1) == 0:
        raise Blocked("it is in training mode")
    if any(output.name or output.uses() for output in operator.node.outputs[1:]):
        raise Blocked("it gives its statistics, as only training mode does")
    x = _data(operator)
    rank = len(operator.known_shape(x))
    if rank > 2 and not operator.attribute("spatial", 1):  # opset 8 and older
        raise Blocked("its statistics differ within a channel")
    names = ("scale", "bias", "mean", "variance")
    gamma, beta, mean, variance = (operator.required(i + 1, n) for i, n in enumerate(names))
    epsilon = float(operator.attribute("epsilon", 1e-5))
    if rank < 2 or np.any(variance + epsilon <= 0) or len({gamma.size, beta.size, mean.size}) > 1:
        raise Blocked("its parameters are not those of a normalisation")
    shape = (1, -1) + (1,) * (rank - 2)
    s = gamma / np.sqrt(variance + epsilon)
    typical = np.sqrt(np.maximum(variance, 0) + mean**2)
    return (
        Affine(s.reshape(shape), (beta - s * mean).reshape(shape), typical.reshape(shape)),
        [x],
    )


def _keeps_shape(operator: Operator, x: ir.Value) -> None:
    """Raises ``Blocked`` unless the other operands only broadcast to x."""
    own = operator.known_shape(x)
    if own == shape_of(operator.node.outputs[0]) and None not in own:
        return
    for other in operator.node.inputs:
        sizes = () if other is None or other is x else operator.known_shape(other)
        pairs = zip(sizes[::-1], own[::-1], strict=False)
        if len(sizes) > len(own) or any(n != 1 and (n is None or n != m) for n, m in pairs):
            raise Blocked("it broadcasts its input to another shape")


def _with_constant(operator: Operator) -> tuple[ir.Value, Array, int] | None:
    """The data operand, the constant one in the layout of x, and the index of the latter."""
    for index in (0, 1):
        constant = operator.constant(index)
        if constant is None or constant.dtype.kind not in "fV":
            continue
        if not np.all(np.isfinite(constant.astype(np.float64))):
            raise Blocked("its constant has values that are not finite")
        x = _data(operator, 1 - index)
        rank = len(operator.known_shape(x))
        _keeps_shape(operator, x)
        if constant.size > layout.LARGEST or constant.ndim > rank:
            raise Blocked("its constant is a whole map, not one number a channel")
        array = constant.astype(np.float64)
        return x, array.reshape((1,) * (rank - array.ndim) + array.shape), index
    return None


def _affine(x: ir.Value, s: Array, t: Array) -> Ruling:
    shape = np.broadcast_shapes(s.shape, t.shape)
    return Affine(np.broadcast_to(s, shape), np.broadcast_to(t, shape)), [x]


def multiply(operator: Operator) -> Ruling:
    """Mul: by a constant it is affine; of two tensors it is a gate (Squeeze-Excite)."""
    found = _with_constant(operator)
    if found is not None:
        x, s, _ = found
        return _affine(x, s, np.zeros_like(s))
    operands = sorted((_data(operator, 0), _data(operator, 1)), key=size_of, reverse=True)
    if operands[0] is operands[1]:
        raise Blocked("a square scales by D²")
    _keeps_shape(operator, operands[0])
    return Gate(), operands


def divide(operator: Operator) -> Ruling:
    """Div by a constant."""
    found = _with_constant(operator)
    if found is None or found[2] == 0 or np.any(found[1] == 0):
        raise Blocked("only a division by a constant is affine")
    x, s, _ = found
    return _affine(x, 1 / s, np.zeros_like(s))


def negate(operator: Operator) -> Ruling:
    """Neg."""
    x = _data(operator)
    shape = (1,) * len(operator.known_shape(x))
    return _affine(x, np.full(shape, -1.0), np.zeros(shape))


def total(operator: Operator) -> Ruling:
    """Add, Sub, Sum: of a constant they are affine; of tensors one gauge for all."""
    sign = -1 if operator.node.op_type == "Sub" else 1
    found = _with_constant(operator) if len(operator.node.inputs) == 2 else None
    if found is not None:
        x, c, index = found
        first, second = (sign, 1) if index == 0 else (1, sign)
        return _affine(x, np.full_like(c, first), second * c)
    values = [_data(operator, i) for i in range(len(operator.node.inputs))]
    if any(operator.shape(value) is None for value in values):
        raise Blocked("the rank of a tensor here is not known")
    return Sum((1,) + (sign,) * (len(values) - 1)), values


def pool(operator: Operator) -> Ruling:
    """MaxPool and AveragePool, which act on each channel alone."""
    x = _data(operator)
    spatial = tuple(range(2, len(operator.known_shape(x))))
    if operator.node.op_type == "MaxPool":
        if operator.attribute("storage_order", 0):
            raise Blocked("it stores indices by column")
        return View(_first(operator), spatial, positive=RECTIFIES), [x]
    counts = operator.attribute("count_include_pad", 0) and (
        linear.pads(operator) or operator.attribute("ceil_mode", 0)
    )
    return View(_same, spatial, no_shift=COUNTS_PADS if counts else None), [x]


def _first(operator: Operator) -> Callable[[Sequence[AnyArray]], Sequence[AnyArray]]:
    """The gauge of the first output is that of the input; further outputs (indices) have none."""
    count = len(operator.node.outputs)
    return lambda arrays: [arrays[0], *(np.zeros_like(arrays[0]) for _ in range(count - 1))]


def global_pool(operator: Operator) -> Ruling:
    """GlobalAveragePool and GlobalMaxPool."""
    x = _data(operator)
    spatial = tuple(range(2, len(operator.known_shape(x))))
    peak = RECTIFIES if operator.node.op_type == "GlobalMaxPool" else None
    return View(_same, spatial, positive=peak), [x]


def reduction(operator: Operator) -> Ruling:
    """ReduceMean, ReduceSum, ReduceMax: over axes along which the gauge does not vary."""
    x = _data(operator)
    rank = len(operator.known_shape(x))
    axes = operator.integers(1, "axes")
    if not axes:
        if operator.attribute("noop_with_empty_axes", 0):
            return View(_same), [x]
        axes = list(range(rank))
    axes = sorted(axis % rank for axis in axes)
    keep = operator.attribute("keepdims", 1)

    def take(arrays: Sequence[AnyArray]) -> Sequence[AnyArray]:
        return [arrays[0] if keep else np.squeeze(arrays[0], tuple(axes))]

    kind = operator.node.op_type
    return (
        View(
            take,
            tuple(axes),
            positive=RECTIFIES if kind == "ReduceMax" else None,
            no_shift="a sum multiplies a shift by its count" if kind == "ReduceSum" else None,
        ),
        [x],
    )


def concat(operator: Operator) -> Ruling:
    """Concat: gauges side by side along the channels, one gauge along any other axis."""
    values = [_data(operator, i) for i in range(len(operator.node.inputs))]
    shapes = [operator.known_shape(value) for value in values]
    rank = len(shapes[0])
    axis = int(operator.attribute("axis", 0)) % rank
    if any(constant_of(value) is not None for value in values):
        raise Blocked("it joins a constant")
    if rank < 2 or axis != 1:
        raise Blocked("it joins along an axis other than the channels")
    counts: list[int] = []
    for shape in shapes:
        count = shape[axis]
        if not isinstance(count, int):
            raise Blocked("it joins tensors whose size is not known")
        counts.append(count)

    def take(arrays: Sequence[AnyArray]) -> Sequence[AnyArray]:
        common = list(np.broadcast_shapes(*(layout.reduced(a, (axis,)).shape for a in arrays)))
        parts = []
        for array, count in zip(arrays, counts, strict=True):
            common[axis] = count
            parts.append(np.broadcast_to(array, common))
        return [np.concatenate(parts, axis)]

    return View(take), values


def reshape(operator: Operator) -> Ruling:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same numbers under another shape."""
    x = _data(operator)
    source, target = operator.known_shape(x), operator.known_shape(operator.node.outputs[0])
    if operator.node.op_type == "Reshape" and operator.constant(1) is None:
        _only_batch_varies(source, target)
    layout.reshaped(np.zeros((1,) * len(source)), source, target)
    return View(lambda arrays: [layout.reshaped(arrays[0], source, target)]), [x]


def _only_batch_varies(source: Sequence[object], target: Sequence[object]) -> None:
    for shape in (source, target):
        if any(not isinstance(size, int) for size in shape[1:]):
            raise Blocked("its shape is computed while the network runs")


def transpose(operator: Operator) -> Ruling:
    """Transpose."""
    x = _data(operator)
    rank = len(operator.known_shape(x))
    order = [int(axis) for axis in operator.attribute("perm", list(range(rank))[::-1])]
    return View(lambda arrays: [np.transpose(arrays[0], order)]), [x]


def split(operator: Operator) -> Ruling:
    """Split: the gauges are cut as the tensor is."""
    x = _data(operator)
    shape = operator.known_shape(x)
    axis = int(operator.attribute("axis", 0)) % len(shape)
    sizes = []
    for output in operator.node.outputs:
        size = operator.known_shape(output)[axis]
        if not isinstance(size, int):
            raise Blocked("it splits into parts whose size is not known")
        sizes.append(size)
    cuts = list(np.cumsum(sizes)[:-1])

    def take(arrays: Sequence[AnyArray]) -> Sequence[AnyArray]:
        if arrays[0].shape[axis] == 1:
            return [arrays[0]] * len(sizes)
        return np.split(arrays[0], cuts, axis)

    return View(take), [x]


def cut(operator: Operator) -> Ruling:
    """Slice with constant bounds."""
    x = _data(operator)
    rank = len(operator.known_shape(x))
    starts, ends = operator.integers(1, "starts"), operator.integers(2, "ends")
    if starts is None or ends is None:
        raise Blocked("its bounds are not known")
    axes = operator.integers(3, "axes") or list(range(len(starts)))
    steps = operator.integers(4, "steps") or [1] * len(starts)
    index = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        last = None if end > 2**31 or (step < 0 and end < -(2**31) + 2) else end
        index[axis % rank] = slice(start, last, step)

    def take(arrays: Sequence[AnyArray]) -> Sequence[AnyArray]:
        kept = [s if n > 1 else slice(None) for s, n in zip(index, arrays[0].shape, strict=True)]
        return [arrays[0][tuple(kept)]]

    return View(take), [x]


def pad(operator: Operator) -> Ruling:
    """Pad: with zeros a scale passes; a shift passes only where no constant is put beside it."""
    x = _data(operator)
    rank = len(operator.known_shape(x))
    widths = operator.integers(1, "pads")
    if widths is None or operator.input(3) is not None:
        raise Blocked("where it pads is not known")
    mode = operator.attribute("mode", "constant")
    if operator.input(2) is not None:
        filling = operator.constant(2)
    else:  # opset 10 and older have an attribute
        filling = np.asarray(operator.attribute("value", 0.0))
    if mode == "constant" and (filling is None or np.any(filling)):
        raise Blocked("it pads with a constant that a gauge would change")
    pairs = list(zip(widths[:rank], widths[rank:], strict=True))
    if min(widths, default=0) < 0 or (mode != "constant" and any(map(any, pairs[:2]))):
        raise Blocked("it pads the channels")

    def take(arrays: Sequence[AnyArray]) -> Sequence[AnyArray]:
        own = [p if n > 1 else (0, 0) for p, n in zip(pairs, arrays[0].shape, strict=True)]
        return [np.pad(arrays[0], own)]

    blocks = BESIDE_ZEROS if mode == "constant" and any(widths) else None
    return View(take, tuple(range(2, rank)), no_shift=blocks), [x]


def resize(operator: Operator) -> Ruling:
    """Resize of the spatial axes: every output is a mean with weights that sum to 1."""
    x = _data(operator)
    source, target = operator.known_shape(x), operator.known_shape(operator.node.outputs[0])
    if operator.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Blocked("it may put a constant beside the image")
    if len(source) != len(target) or len(source) < 3 or source[1] != target[1]:
        raise Blocked("it resizes the channels")
    return View(_same, tuple(range(2, len(source)))), [x]


def expand(operator: Operator) -> Ruling:
    """Expand along axes other than the channels."""
    x = _data(operator)
    source, target = operator.known_shape(x), operator.known_shape(operator.node.outputs[0])
    if len(source) != len(target):
        raise Blocked("it adds axes")
    return View(_same), [x]


def shape_only(operator: Operator) -> Ruling:
    """Shape and Size."""
    return Blind(), [_data(operator)]


FIRST_ONLY = frozenset({"BatchNormalization", "Dropout"})
"""Operators with further outputs, whose rules apply only where nothing reads these."""

RULES: dict[str, Rule] = {
    "Abs": rectifier,
    "Add": total,
    "AveragePool": pool,
    "BatchNormalization": batchnorm,
    "Clip": clip,
    "Concat": concat,
    "Conv": linear.convolution,
    "ConvTranspose": linear.transposed_convolution,
    "Div": divide,
    "Dropout": identity,
    "Expand": expand,
    "Flatten": reshape,
    "Gemm": linear.gemm,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "Identity": identity,
    "LeakyRelu": rectifier,
    "MatMul": linear.matmul,
    "MaxPool": pool,
    "Mul": multiply,
    "Neg": negate,
    "PRelu": prelu,
    "Pad": pad,
    "ReduceMax": reduction,
    "ReduceMean": reduction,
    "ReduceSum": reduction,
    "Relu": rectifier,
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape_only,
    "Size": shape_only,
    "Slice": cut,
    "Split": split,
    "Squeeze": reshape,
    "Sub": total,
    "Sum": total,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}


def ruling(operator: Operator) -> Ruling:
    """The kind of a node and its operands that are data; a wall with its reason otherwise."""
    node = operator.node
    everything = [value for value in node.inputs if value is not None]
    rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        return Wall(WALLS.get(node.op_type, f"no rule for the operator {name}")), everything
    try:
        return rule(operator)
    except Blocked as reason:
        return Wall(str(reason)), everything
