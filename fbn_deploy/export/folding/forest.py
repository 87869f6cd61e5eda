"""Chooses the scales D: a spanning forest of the affine edges, the largest tensors first.

Every channel of every tensor has a *unit*; what must share a D shares a unit or is unified.
Unit 0 is the ground: graph inputs, outputs and walls, where D = 1. An affine step with scale s
asks for D_y s = D_x (see ``kinds``), an edge between two units. Edges that close no cycle can
all be granted, whatever their s: the graphic matroid. So Kruskal's algorithm, largest tensors
first, leaves the smallest total of elements to be scaled, and per channel exactly
edges − units + components scales stay.

An edge is refused where it closes a cycle, where s = 0, where D would have to be negative for a
step that needs D > 0, or where the D of one component would spread over more than
2^``limit``. A step is granted in all of its channels or in none: one channel that stays costs
as much as all.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from fbn_deploy.export.folding.kinds import (
    Affine,
    Array,
    Blind,
    Gate,
    Linear,
    Sum,
    Units,
    View,
    Wall,
)
from fbn_deploy.export.folding.layout import reduced
from fbn_deploy.export.folding.network import Network, Step
from fbn_deploy.export.folding.operator import shape_of, size_of

GROUND = 0


@dataclass(frozen=True)
class Scales:
    """D of every tensor, and for each affine step that keeps a scale the reason."""

    units: dict[ir.Value, Units]
    d: Array
    component: Units
    """The tree of each unit; equal where one free factor moves both."""
    is_free: npt.NDArray[np.bool_]
    """Whether the tree of each unit may still be scaled as a whole."""
    refused: dict[Step, str]

    def of(self, value: ir.Value) -> Array:
        """D of a tensor, in its layout."""
        d: Array = self.d[self.units[value]]
        return d


@dataclass
class _Equations:
    """What the steps say about D before any edge is granted."""

    count: int = 1
    units: dict[ir.Value, Units] = field(default_factory=dict)
    equal: list[tuple[Units, Units]] = field(default_factory=list)
    positive: list[Units] = field(default_factory=list)
    edges: list[tuple[Step, Affine]] = field(default_factory=list)

    def fresh(self, shape: tuple[int, ...]) -> Units:
        first, self.count = self.count, self.count + math.prod(shape)
        return np.arange(first, self.count, dtype=np.int64).reshape(shape)

    def same(self, one: Units, other: Units) -> None:
        self.equal.append((one, other))

    def at(self, value: ir.Value) -> Units:
        """The units of what a step reads; data from outside the steps is ground."""
        if value not in self.units:
            self.units[value] = np.zeros((1,) * len(shape_of(value) or ()), dtype=np.int64)
        return self.units[value]

    def ground(self, value: ir.Value) -> None:
        self.same(self.at(value), np.zeros((), dtype=np.int64))

    def add(self, step: Step) -> None:
        """The equations of one step; its inputs have their units already."""
        kind = step.kind
        if isinstance(kind, Wall):
            for value in step.inputs:
                self.ground(value)
        if isinstance(kind, Wall | Blind):
            for value in step.outputs:
                self.at(value)
            return
        taken = [self.at(value) for value in step.inputs]
        if isinstance(kind, Linear):
            axes = [axis for axis in range(kind.rank_in) if axis != kind.axis_in]
            self.same(taken[0], reduced(taken[0], axes))
            given = [self.fresh(kind.layout_out())]
        elif isinstance(kind, Affine):
            self.edges.append((step, kind))
            given = [self.fresh(np.broadcast_shapes(taken[0].shape, kind.s.shape))]
        elif isinstance(kind, Sum):
            joint = np.broadcast_arrays(*taken)
            for other in joint[1:]:
                self.same(joint[0], other)
            given = [joint[0]]
        elif isinstance(kind, Gate):
            self.ground(step.inputs[1])
            given = [taken[0]]
        else:
            given = self._viewed(kind, taken)
        self.units.update(zip(step.outputs, given, strict=True))

    def _viewed(self, kind: View, taken: list[Units]) -> list[Units]:
        for units in taken:
            self.same(units, reduced(units, kind.uniform))
            if kind.positive:
                self.positive.append(units)
        narrow = [reduced(units, kind.uniform) for units in taken]
        return [given.astype(np.int64) for given in kind.take(narrow)]

    def classes(self) -> Units:
        """The class of every unit after all that is equal is unified; the ground's is 0."""
        pairs = [np.broadcast_arrays(a, b) for a, b in self.equal]
        rows = np.concatenate([a.reshape(-1) for a, _ in pairs] or [np.zeros(0, np.int64)])
        columns = np.concatenate([b.reshape(-1) for _, b in pairs] or [np.zeros(0, np.int64)])
        links = coo_matrix((np.ones(rows.size), (rows, columns)), (self.count, self.count))
        labels = connected_components(links, directed=False)[1].astype(np.int64)
        first = labels[GROUND]
        return np.where(labels == first, 0, np.where(labels == 0, first, labels))


class _Trees:
    """Union-find in which every member knows its signed ratio to the root: D = ratio · D_root.

    Without path compression, so that a union can be undone.
    """

    def __init__(self, positive: npt.NDArray[np.bool_], limit: float) -> None:
        count = positive.size
        self.limit = limit
        self.parent = [-1] * count
        self.ratio = [1.0] * count
        self.members = [1] * count
        self.sign = positive.astype(int).tolist()  # of D_root: +1, −1, or 0 for either
        self.range: list[tuple[float, float]] = [(0.0, 0.0)] * count  # of log2 |ratio|
        self.history: list[tuple[int, int, int, int, tuple[float, float]]] = []

    def find(self, member: int) -> tuple[int, float]:
        ratio = 1.0
        while self.parent[member] >= 0:
            ratio *= self.ratio[member]
            member = self.parent[member]
        return member, ratio

    def refusal(self, x: int, y: int, s: float) -> str | None:
        """Grants D_y s = D_x and returns None, or the reason why it cannot be."""
        if s == 0.0:
            return "s = 0 stops the channel for this reader only"
        (a, r_x), (b, r_y) = self.find(x), self.find(y)
        k = r_x / (s * r_y)  # D_b = k · D_a
        if a == b:
            return self._around(a, k)
        turned = self.sign[b] * (1 if k > 0 else -1)
        if self.sign[a] * turned < 0:
            return "a negative s before a step that needs D > 0"
        if self.members[a] < self.members[b]:
            a, b, k = b, a, 1.0 / k
        offset = math.log2(abs(k))
        low = min(self.range[a][0], self.range[b][0] + offset)
        high = max(self.range[a][1], self.range[b][1] + offset)
        if high - low > self.limit:
            return f"the gauge would spread over more than 2^{self.limit:g}"
        self._join(a, b, k, (low, high))
        return None

    def _around(self, root: int, k: float) -> str | None:
        """An edge within one tree: granted when the ratios around the cycle multiply to 1."""
        if abs(k - 1.0) < 1e-9:
            return None
        if self.find(GROUND)[0] == root:
            return "both ends are fixed by inputs, outputs or walls"
        return "it closes a cycle of identity and pooling edges"

    def _join(self, a: int, b: int, k: float, spread: tuple[float, float]) -> None:
        """Tree b becomes a part of tree a: D_b = k · D_a."""
        turned = self.sign[b] * (1 if k > 0 else -1)
        self.history.append((a, b, self.members[a], self.sign[a], self.range[a]))
        self.parent[b], self.ratio[b] = a, k
        self.members[a] += self.members[b]
        self.sign[a] = self.sign[a] or turned
        self.range[a] = spread

    def undo_to(self, length: int) -> None:
        while len(self.history) > length:
            a, b, self.members[a], self.sign[a], self.range[a] = self.history.pop()
            self.parent[b], self.ratio[b] = -1, 1.0

    def root_scale(self, root: int) -> float:
        """D of a free root: a power of two (exact) that centres the tree on 1."""
        low, high = self.range[root]
        return float(self.sign[root] or 1) * 2.0 ** -round((low + high) / 2)


def spanning_scales(network: Network, limit: float) -> Scales:
    """D for every tensor of ``network``; no tree spreads over more than 2^``limit``."""
    equations = _Equations()
    for step in network.steps:
        equations.add(step)
    for value in network.fixed:
        equations.ground(value)
    classes = equations.classes()
    needs_positive = np.zeros(int(classes.max()) + 1, dtype=np.bool_)
    needs_positive[GROUND] = True
    for units in equations.positive:
        needs_positive[classes[units]] = True
    trees = _Trees(needs_positive, limit)
    refused: dict[Step, str] = {}
    by_size = sorted(equations.edges, key=lambda edge: -size_of(edge[0].outputs[0]))
    for step, affine in by_size:
        if affine.is_fill:
            continue
        reason = _granted(trees, equations, classes, step, affine)
        if reason is not None:
            refused[step] = reason
    roots, d = _solved(trees)
    ground = roots[GROUND]
    component = roots[classes]
    return Scales(equations.units, d[classes], component, component != ground, refused)


def _granted(
    trees: _Trees, equations: _Equations, classes: Units, step: Step, affine: Affine
) -> str | None:
    y = equations.units[step.outputs[0]]
    x = np.broadcast_to(equations.units[step.inputs[0]], y.shape)
    s = np.broadcast_to(affine.s, y.shape)
    mark = len(trees.history)
    reasons: Counter[str] = Counter()
    columns = (classes[x], classes[y], s)
    for one, other, scale in zip(*(column.ravel().tolist() for column in columns), strict=True):
        reason = trees.refusal(one, other, scale)
        if reason is not None:
            reasons[reason] += 1
    if not reasons:
        return None
    trees.undo_to(mark)
    return "; ".join(f"{reason} ({n} of {s.size} channels)" for reason, n in reasons.items())


def _solved(trees: _Trees) -> tuple[Units, Array]:
    """The root and D of every class."""
    count = len(trees.parent)
    roots, d = np.arange(count, dtype=np.int64), np.ones(count)
    ground_root, ground_ratio = trees.find(GROUND)
    for member in range(count):
        root, ratio = trees.find(member) if trees.parent[member] >= 0 else (member, 1.0)
        roots[member] = root
        scale = 1.0 / ground_ratio if root == ground_root else trees.root_scale(root)
        d[member] = ratio * scale
    return roots, d
