"""INT8 weights: one scale a channel, symmetric, so that w ≈ scale · q with |q| ≤ ``levels``.

``levels`` is 127, or 63 for processors that multiply bytes in pairs into saturating 16-bit sums
(x86 without VNNI: vpmaddubsw). 2 · 255 · 63 = 32,130 fits there, 2 · 255 · 127 = 64,770 does not,
and what is cut off costs whole points of accuracy; NNCF calls this the overflow fix.

ONNX Runtime holds the bias b of a channel in int32 with the scale s_x · s_w of inputs and weights,
so that tiny weights need s_w ≥ |b| / (s_x · 2³⁰); onnxruntime's own quantiser raises scales alike.
Half of int32's range is left to what bias correction adds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEVELS, LEVELS_WITHOUT_VNNI = 127, 63
SHRINKS = np.linspace(0.5, 1.0, 51)
"""Candidates for a channel's range as parts of its largest weight; below 0.5 none was ever best."""

NORMAL = float(np.finfo(np.float32).smallest_normal)
BIAS_STEPS = 2.0**30

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.int8]


def least_scales(bias: Floats, input_scale: float) -> Floats:
    """The smallest scale of each channel for which s_x · s_w is a normal float32 of which int32
    holds ``bias``, (channels,) or (1,)."""
    steps = np.abs(bias.astype(np.float64)) / BIAS_STEPS
    found: Floats = (np.maximum(steps, NORMAL) / input_scale).astype(np.float32)
    return found


def channel_scales(
    weight: Floats,
    axis: int,
    by_mse: bool,
    levels: int = LEVELS,
    least: Floats | float = 0.0,
) -> Floats:
    """One scale for each channel along ``axis``: max |w| / levels, or with ``by_mse`` the
    scale whose quantised weights are nearest in squared error; no scale is below ``least``, or so
    small that float32 loses digits of it."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    scales = np.where(largest > 0, largest, 1.0) / levels
    if by_mse:
        tried = SHRINKS[:, None] * scales
        errors = np.stack(
            [((rows - _rounded(rows, s[:, None], levels)) ** 2).sum(axis=1) for s in tried]
        )
        scales = tried[errors.argmin(axis=0), np.arange(len(rows))]
    return np.maximum(scales, np.maximum(least, NORMAL)).astype(np.float32)


def quantized(weight: Floats, scales: Floats, axis: int, levels: int = LEVELS) -> Bytes:
    """The weights in units of their channel's scale."""
    steps = np.rint(weight / _along(scales, weight.ndim, axis))
    found: Bytes = np.clip(steps, -levels, levels).astype(np.int8)
    return found


def restored(weight: Bytes, scales: Floats, axis: int) -> Floats:
    """What the network computes with: scale · q."""
    return weight.astype(np.float32) * _along(scales, weight.ndim, axis)


def _rounded(
    rows: npt.NDArray[np.float64], scales: npt.NDArray[np.float64], levels: int
) -> npt.NDArray[np.float64]:
    return np.clip(np.rint(rows / scales), -levels, levels) * scales


def _along(scales: Floats, rank: int, axis: int) -> Floats:
    shape = [1] * rank
    shape[axis] = -1
    return scales.reshape(shape)
