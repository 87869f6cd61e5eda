"""What a node does to a gauge: a few kinds, and every operator is one of them.

The mathematics, in the letters that this package uses. Let ``v`` be a tensor of the network as
its author wrote it. The folded network stores another tensor in its place,

    ṽ = D · (v − p)          D ≠ 0 and p per channel: the *gauge* of v,

and it computes the same function as long as every node is rewritten to match the gauges of what
it reads (x) and what it gives (y):

    Linear   y = W x + b         W' = D_y W / D_x      b' = D_y (b + W p_x − p_y)
    Affine   y = s x + t         s' = D_y s / D_x      t' = D_y (s p_x + t − p_y)
    View     y = V(x)            D_y = V(D_x)          p_y = V(p_x)
    Sum      y = ± x₁ ± x₂ …     D_y = D_x₁ = D_x₂     p_y = ± p_x₁ ± p_x₂
    Gate     y = x · g           D_y = D_x, D_g = 1    p_y = p_x = p_g = 0
    Wall     anything else       D = 1                 p = 0
    Blind    y = shape of x      any D_x, D_y = 1      any p_x, p_y = 0

A Linear node takes any gauge at no cost. An Affine node (BatchNormalization has
s = γ / √(σ² + ε) and t = β − s μ) costs nothing exactly when s' = 1 and t' = 0: then ṽ of its
input *is* ṽ of its output and the node disappears. D is chosen in ``forest``, p in ``shifts``;
a BatchNormalization that no choice can remove stays as s' and t'.

Conditions: a View that is only positively homogeneous (Relu, MaxPool) needs D > 0; one that
does not commute with a constant, and a Linear that pads with zeros, need p_x = 0.

The gauge is Nagel et al. 2019 (data-free quantisation), section 4.1, taken from pairs of layers
to whole graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Units: TypeAlias = npt.NDArray[np.int64]
AnyArray: TypeAlias = npt.NDArray[np.generic]
Shape: TypeAlias = tuple[int | str | None, ...]


class Blocked(Exception):
    """Raised by a rule that does not apply; its text is the reason that the report gives."""


@dataclass(frozen=True)
class Linear:
    """y = scale · W x + b, a convolution or matrix product with constant weights.

    ``weight`` is canonical: (groups, outputs per group, inputs per group, taps); ``restored``
    turns it back into the operator's own shape. ``bias`` and ``scale`` have length outputs.
    ``rank_in``, ``rank_out`` and ``axis_in``, ``axis_out`` say where the channels lie.
    ``border`` is why a shift of x may not pass (zero padding), or None.
    ``has_bias`` says whether a bias costs no extra node.
    """

    weight: AnyArray
    bias: Array
    scale: Array
    restored: Callable[[AnyArray], AnyArray]
    rank_in: int
    axis_in: int
    rank_out: int
    axis_out: int
    border: str | None = None
    has_bias: bool = True

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[0] * self.weight.shape[2])

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0] * self.weight.shape[1])

    def layout_in(self) -> tuple[int, ...]:
        return _channel_layout(self.rank_in, self.axis_in, self.inputs)

    def layout_out(self) -> tuple[int, ...]:
        return _channel_layout(self.rank_out, self.axis_out, self.outputs)

    def then(self, affine: Affine) -> Linear | None:
        """This node followed by ``affine`` as one node, or None where its layout is another."""
        layout = self.layout_out()
        if not (_fits(affine.s, layout) and _fits(affine.t, layout)):
            return None
        s = np.broadcast_to(affine.s, layout).reshape(-1)
        t = np.broadcast_to(affine.t, layout).reshape(-1)
        return replace(
            self,
            scale=self.scale * s,
            bias=self.bias * s + t,
            has_bias=self.has_bias or bool(np.any(t)),
        )

    def regauged(self, d_x: Array, p_x: Array, d_y: Array, p_y: Array) -> tuple[AnyArray, Array]:
        """W' (in the operator's shape and its own precision) and b' for these gauges."""
        w = self.weight
        groups, outs, ins, _ = w.shape
        row = (self.scale * d_y).reshape(groups, outs, 1, 1)
        column = (1.0 / d_x).reshape(groups, 1, ins, 1)
        bias = self.bias
        if np.any(p_x):
            taps = w.sum(axis=3, dtype=np.float64)
            bias = bias + self.scale * np.einsum(
                "goi,gi->go", taps, p_x.reshape(groups, ins)
            ).reshape(-1)
        if np.all(column == 1.0) and np.all(row == 1.0):
            scaled: AnyArray = w
        else:
            scaled = (w.astype(np.float64) * row * column).astype(w.dtype)
        return self.restored(scaled), d_y * (bias - p_y)


@dataclass(frozen=True)
class Affine:
    """y = s · x + t with constants that broadcast to the layout of x.

    ``typical`` is how large values of x are (√(σ² + μ²) of a BatchNormalization), where known:
    it bounds the shifts that may be pushed back into a tensor that others read as well.
    """

    s: Array
    t: Array
    typical: Array | None = None

    @property
    def is_fill(self) -> bool:
        """y does not depend on x: a constant in the shape of x."""
        return not np.any(self.s)

    def then(self, second: Affine) -> Affine:
        """This node followed by ``second`` as one node."""
        return Affine(self.s * second.s, self.t * second.s + second.t, self.typical)


@dataclass(frozen=True)
class View:
    """y = V(x): a node that moves, pools or rectifies values, one channel at a time.

    ``take`` does to an array of gauges (one for each input) what the node does to the tensors.
    ``uniform`` are axes along which a gauge may not vary. ``positive`` and ``no_shift`` are the
    reasons why D must be positive and why p must be zero, or None.
    """

    take: Callable[[Sequence[AnyArray]], Sequence[AnyArray]]
    uniform: tuple[int, ...] = ()
    positive: str | None = None
    no_shift: str | None = None


@dataclass(frozen=True)
class Sum:
    """y = Σ sign · x: one gauge for all."""

    signs: tuple[int, ...]


@dataclass(frozen=True)
class Gate:
    """y = x · g, both depend on the data (Squeeze-Excite); the first input is x."""

    no_shift: str = "a product with a data-dependent gate turns a shift into t · g"


@dataclass(frozen=True)
class Wall:
    """Nothing is known to pass: inputs and outputs stay as they are, for ``reason``."""

    reason: str


@dataclass(frozen=True)
class Blind:
    """Reads the shape of its input only, so the gauge of what it reads does not matter."""


Kind: TypeAlias = Linear | Affine | View | Sum | Gate | Wall | Blind


def _channel_layout(rank: int, axis: int, channels: int) -> tuple[int, ...]:
    return (1,) * axis + (channels,) + (1,) * (rank - axis - 1)


def _fits(array: Array, layout: tuple[int, ...]) -> bool:
    """Whether ``array`` broadcasts to exactly ``layout``."""
    return array.ndim <= len(layout) and all(
        a in (1, b) for a, b in zip(array.shape[::-1], layout[::-1], strict=False)
    )
