"""Rules of the operators with weights: Conv, ConvTranspose, Gemm, MatMul."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fbn_deploy.export.folding.kinds import AnyArray, Array, Blocked, Linear
from fbn_deploy.export.folding.operator import Operator

BORDER = "a shift of an input that is padded with zeros would be wrong at the border"
OVERLAPS = "a shift reaches the outputs of a transposed convolution unevenly"


def pads(operator: Operator) -> bool:
    """Whether a convolution or a pool puts anything beside its input."""
    auto = operator.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return True
    return auto != "VALID" and any(operator.attribute("pads", ()))


def _parts(operator: Operator) -> tuple[ir.Value, AnyArray, Array | None]:
    x = operator.input(0)
    if x is None:
        raise Blocked("it has no input")
    operator.required(1, "weight")
    weight = operator.constant(1)
    if weight is None or weight.size == 0:
        raise Blocked("its weight is empty")
    bias = operator.required(2, "bias") if operator.input(2) is not None else None
    return x, weight, bias


def convolution(operator: Operator) -> tuple[Linear, Sequence[ir.Value]]:
    """Conv: weight (M, C / groups, taps…)."""
    x, weight, bias = _parts(operator)
    groups = int(operator.attribute("group", 1))
    rows, columns, *taps = weight.shape
    if not taps or rows % groups:
        raise Blocked("its weight has an unusual shape")
    padded = pads(operator) and (
        any(operator.attribute("pads", ())) or any(tap > 1 for tap in taps)
    )
    return (
        Linear(
            weight=weight.reshape(groups, rows // groups, columns, -1),
            bias=np.zeros(rows) if bias is None else bias,
            scale=np.ones(rows),
            restored=lambda w: w.reshape(weight.shape),
            rank_in=weight.ndim,
            axis_in=1,
            rank_out=weight.ndim,
            axis_out=1,
            border=BORDER if padded else None,
        ),
        [x],
    )


def transposed_convolution(operator: Operator) -> tuple[Linear, Sequence[ir.Value]]:
    """ConvTranspose: weight (C, M / groups, taps…)."""
    x, weight, bias = _parts(operator)
    groups = int(operator.attribute("group", 1))
    columns, rows, *taps = weight.shape
    if not taps or columns % groups:
        raise Blocked("its weight has an unusual shape")
    split = (groups, columns // groups, rows, int(np.prod(taps)))
    strides = operator.attribute("strides", ())
    plain = (
        all(tap == 1 for tap in taps)
        and all(stride == 1 for stride in strides)
        and not pads(operator)
        and not any(operator.attribute("output_padding", ()))
        and not operator.attribute("output_shape", ())
    )
    return (
        Linear(
            weight=weight.reshape(split).transpose(0, 2, 1, 3),
            bias=np.zeros(rows * groups) if bias is None else bias,
            scale=np.ones(rows * groups),
            restored=lambda w: w.transpose(0, 2, 1, 3).reshape(weight.shape),
            rank_in=weight.ndim,
            axis_in=1,
            rank_out=weight.ndim,
            axis_out=1,
            border=None if plain else OVERLAPS,
        ),
        [x],
    )


def gemm(operator: Operator) -> tuple[Linear, Sequence[ir.Value]]:
    """Gemm: y = α A B + β c with a constant B."""
    x, weight, bias = _parts(operator)
    if operator.attribute("transA", 0) or weight.ndim != 2:
        raise Blocked("it transposes its input")
    flipped = bool(operator.attribute("transB", 0))
    rows, columns = weight.shape if flipped else weight.shape[::-1]
    if bias is not None and bias.size != 1 and bias.shape not in ((rows,), (1, rows)):
        raise Blocked("its bias differs from image to image")
    alpha, beta = (float(operator.attribute(name, 1.0)) for name in ("alpha", "beta"))
    return (
        Linear(
            weight=(weight if flipped else weight.T).reshape(1, rows, columns, 1),
            bias=np.zeros(rows) if bias is None else np.broadcast_to(beta * bias.ravel(), rows),
            scale=np.full(rows, alpha),
            restored=lambda w: w.reshape(rows, columns) if flipped else w.reshape(rows, columns).T,
            rank_in=2,
            axis_in=1,
            rank_out=2,
            axis_out=1,
        ),
        [x],
    )


def matmul(operator: Operator) -> tuple[Linear, Sequence[ir.Value]]:
    """MatMul by a constant matrix on the right; it becomes a Gemm when it needs a bias."""
    x, weight, _ = _parts(operator)
    rank = len(operator.known_shape(x))
    if weight.ndim != 2 or rank < 2:
        raise Blocked("its weight is not one matrix")
    columns, rows = weight.shape
    return (
        Linear(
            weight=weight.T.reshape(1, rows, columns, 1),
            bias=np.zeros(rows),
            scale=np.ones(rows),
            restored=lambda w: w.reshape(rows, columns).T,
            rank_in=rank,
            axis_in=rank - 1,
            rank_out=rank,
            axis_out=rank - 1,
            has_bias=rank == 2,
        ),
        [x],
    )
