"""Spends the gauge that is still free on equal channel ranges (cross-layer equalisation).

For two layers y = W₂ f(W₁ x) Nagel et al. 2019 (equation 11) scale channel i by
D_i = √(r₁ r₂) / r₁, with r₁ the largest |w| that gives the channel and r₂ the largest that reads
it, so that both become √(r₁ r₂). Here a channel is a whole tree of units with one free factor:

    f = √( max over readers |W'| / max over producers |W'| )

taken in turns over all trees until nothing moves, as they do over pairs of layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from fbn_deploy.export.folding.forest import Scales
from fbn_deploy.export.folding.kinds import Array, Linear, Units
from fbn_deploy.export.folding.layout import reduced
from fbn_deploy.export.folding.network import Network

ROUNDS = 20
SETTLED = 0.01
"""Largest change of log2 f in a round at which the turns end."""


@dataclass(frozen=True)
class _Layer:
    """log2 of the ranges (groups, outputs, inputs) of one layer, and its channels' trees."""

    ranges: Array
    trees_in: Units
    trees_out: Units

    def collect(self, f: Array, given: Array, read: Array) -> None:
        """Raises ``given`` and ``read`` to this layer's largest weights, under factors 2^f."""
        now = self.ranges + f[self.trees_out][:, :, None] - f[self.trees_in][:, None, :]
        np.maximum.at(given, self.trees_out, now.max(axis=2))
        np.maximum.at(read, self.trees_in, now.max(axis=1))


def _ranges(kind: Linear, d_x: Array, d_y: Array) -> Array:
    """log2 of max |W'| over the taps."""
    groups, outs, ins, _ = kind.weight.shape
    row = np.abs(kind.scale * _line(d_y, kind.layout_out())).reshape(groups, outs, 1)
    column = np.abs(_line(d_x, kind.layout_in())).reshape(groups, 1, ins)
    largest = np.max(np.abs(kind.weight.astype(np.float64)), axis=3)
    with np.errstate(divide="ignore"):
        ranges: Array = np.log2(largest * row / column)
    return ranges


def _trees(scales: Scales, value: ir.Value, layout: tuple[int, ...], groups: int) -> Units:
    trees: Units = scales.component[scales.units[value]]
    return _line(trees.astype(np.float64), layout).astype(np.int64).reshape(groups, -1)


def _line(array: Array, layout: tuple[int, ...]) -> Array:
    axes = [axis for axis, size in enumerate(layout) if size == 1]
    return np.broadcast_to(reduced(array, axes), layout).reshape(-1)


def equalized_scales(network: Network, scales: Scales, limit: float) -> Scales:
    """``scales`` with every free tree moved so that its weights have equal ranges.

    No D leaves 2^±``limit``/2.
    """
    layers = [
        _Layer(
            _ranges(step.kind, scales.of(step.inputs[0]), scales.of(step.outputs[0])),
            _trees(scales, step.inputs[0], step.kind.layout_in(), step.kind.weight.shape[0]),
            _trees(scales, step.outputs[0], step.kind.layout_out(), step.kind.weight.shape[0]),
        )
        for step in network.steps
        if isinstance(step.kind, Linear)
    ]
    trees = int(scales.component.max()) + 1
    free = np.zeros(trees, dtype=np.bool_)
    free[scales.component[scales.is_free]] = True
    f = np.zeros(trees)  # log2
    low, high = np.full(trees, np.inf), np.full(trees, -np.inf)
    log_d = np.log2(np.abs(scales.d))
    np.minimum.at(low, scales.component, log_d)
    np.maximum.at(high, scales.component, log_d)
    for _ in range(ROUNDS):
        given, read = np.full(trees, -np.inf), np.full(trees, -np.inf)
        for layer in layers:
            layer.collect(f, given, read)
        both = free & np.isfinite(given) & np.isfinite(read)
        move = np.where(both, (np.where(both, read, 0.0) - np.where(both, given, 0.0)) / 2, 0.0)
        f = np.clip(f + move / 2, -limit / 2 - low, limit / 2 - high)
        f[~free] = 0.0
        if np.max(np.abs(move), initial=0.0) < SETTLED:
            break
    factor = np.exp2(np.round(f))[scales.component]
    return replace(scales, d=scales.d * factor)
