"""Chooses the shifts p: every t goes into a bias that exists, or merges, or stays.

All p start at zero, which is right but leaves every affine step its t. One step after the other
then tries to have p_y = s p_x + t exactly, so that nothing is left to add:

* forward: p_y changes by m and everyone who reads y makes up for it. A Linear without a border
  takes it into its bias; a sum asks another of its inputs to change by −m (a convolution that
  feeds the sum: this is where shifts merge into its bias) or hands it on to its own readers;
  an affine step that has to stay anyway takes it along.
* backward: p_x changes by −m / s. What gives x must be able to (a Linear can, a sum if one of
  its inputs can, a view if its own input can), and whoever else reads x makes up for it.

A trial either succeeds as a whole or is undone. A shift moved backward into a tensor that
others read as well is refused where it is large against that tensor, because every reader would
then see a small difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from fbn_deploy.export.folding.forest import Scales
from fbn_deploy.export.folding.kinds import Affine, Array, Gate, Linear, Sum, View, Wall
from fbn_deploy.export.folding.layout import pulled_back, reduced, varies
from fbn_deploy.export.folding.network import Network, Step
from fbn_deploy.export.folding.operator import size_of

CHANGES, FAILURES, DEPTH = 3000, 60, 80
"""Bounds of one trial: tensors changed, dead ends, steps from the start (graphs where sums feed
sums would otherwise be searched exhaustively)."""

LARGE = 16.0
"""A shift of up to this many typical values costs at most 4 of the 24 bits of a float32."""

NOTHING = 1e-11
"""Relative size below which a difference of shifts is rounding in double precision."""


@dataclass
class Shifts:
    """p of every tensor that has one, and where each t went."""

    network: Network
    scales: Scales
    p: dict[ir.Value, Array] = field(default_factory=dict)
    absorbed: dict[Step, list[str]] = field(default_factory=dict)
    reasons: dict[Step, str] = field(default_factory=dict)

    def of(self, value: ir.Value) -> Array:
        """p of a tensor, in its layout."""
        found = self.p.get(value)
        return np.zeros(self.scales.units[value].shape) if found is None else found

    def left_over(self, step: Step, affine: Affine) -> Array:
        """s p_x + t − p_y: what the step still has to add, exactly zero where that is nothing."""
        before = affine.s * self.of(step.inputs[0])
        after = self.of(step.outputs[0])
        m: Array = before + affine.t - after
        size = np.max(np.abs(before)) + np.max(np.abs(affine.t)) + np.max(np.abs(after))
        return m if np.max(np.abs(m), initial=0.0) > NOTHING * size else np.zeros_like(m)

    def stays(self, step: Step, affine: Affine) -> bool:
        """Whether the step costs a node anyway, so that a shift is free there."""
        return step in self.scales.refused or bool(np.any(self.left_over(step, affine)))


class _Impossible(Exception):
    """A trial failed; the text says at which step and why."""


@dataclass
class _Trial:
    """Changes of p that are made together or not at all.

    All that happens is linear in the change, so a tensor that is changed along two ways simply
    gets both changes, and each reader makes up for each.
    """

    shifts: Shifts
    step: Step
    changes: dict[ir.Value, Array] = field(default_factory=dict)
    biases: list[str] = field(default_factory=list)
    changed: int = 0
    failed: int = 0
    strain: float = np.inf
    """How large the shift that is pushed back is against the tensors that it is pushed into."""
    active: tuple[ir.Value, ...] = ()
    """The tensors on the way from the start: changing one again would go round in a circle."""

    def attempt(self, action: Callable[[], None]) -> str | None:
        """Runs ``action``; undoes what it changed and returns the reason when it fails."""
        changes, biases = dict(self.changes), list(self.biases)
        active, strain = self.active, self.strain
        try:
            action()
        except _Impossible as reason:
            self.changes, self.biases = changes, biases
            self.active, self.strain = active, strain
            self.failed += 1
            return str(reason)
        return None

    def first_of(self, actions: list[Callable[[], None]]) -> None:
        """The first of ``actions`` that works; the last reason when none does."""
        reason: str | None = "nothing takes it"
        for action in actions:
            reason = self.attempt(action)
            if reason is None:
                return
            if self.failed > FAILURES:
                break
        raise _Impossible(reason)

    def change(self, value: ir.Value, by: Array, by_whom: Step | None) -> None:
        """p of ``value`` changes; all its readers but ``by_whom`` make up for it."""
        if value in self.shifts.network.fixed:
            raise _Impossible("the tensor is a graph output or read by a subgraph")
        if value in self.active:
            raise _Impossible("the shift would come back to where it started")
        if self.changed > CHANGES or len(self.active) > DEPTH:
            raise _Impossible("the search for a bias was given up")
        self.changed += 1
        before, self.active = self.active, (*self.active, value)
        self.changes[value] = self.changes.get(value, 0.0) + by
        for reader, index in self.shifts.network.readers.get(value, []):
            if reader is not by_whom:
                self.make_up(reader, index, by)
        self.active = before

    def make_up(self, step: Step, index: int, by: Array) -> None:
        """The output of ``step`` stays what it should be though p of an input changes."""
        kind = step.kind
        if isinstance(kind, Linear):
            if kind.border is not None:
                raise _Impossible(f"{step.name}: {kind.border}")
            if not kind.has_bias:
                raise _Impossible(f"{step.name} has no bias")
            if not _spans(by, kind.layout_in()):
                raise _Impossible(f"{step.name}: the shift differs within a channel")
            self.biases.append(step.name)
        elif isinstance(kind, Affine):
            if kind.is_fill:
                return
            if self.shifts.stays(step, kind) and step is not self.step:
                self.biases.append(step.name)
                return
            self.change(step.outputs[0], kind.s * by, None)
        elif isinstance(kind, Sum):
            by = kind.signs[index] * by
            others = [i for i in range(len(step.inputs)) if i != index]
            actions = [self._pushing(step, kind, i, -by) for i in others]
            self.first_of([*actions, lambda: self.change(step.outputs[0], by, None)])
        elif isinstance(kind, View):
            if kind.no_shift is not None:
                raise _Impossible(f"{step.name}: {kind.no_shift}")
            self._through(step, kind, index, by)
        elif isinstance(kind, Gate):
            raise _Impossible(f"{step.name}: {kind.no_shift}")
        elif isinstance(kind, Wall):
            raise _Impossible(f"{step.name}: {kind.reason}")

    def _through(self, step: Step, kind: View, index: int, by: Array) -> None:
        if varies(by, kind.uniform):
            raise _Impossible(f"{step.name}: the shift differs along a pooled axis")
        units = self.shifts.scales.units
        inputs = [np.zeros(units[value].shape) for value in step.inputs]
        inputs[index] = np.broadcast_to(by, inputs[index].shape).copy()
        outputs = kind.take([reduced(array, kind.uniform) for array in inputs])
        for value, change in zip(step.outputs, outputs, strict=True):
            if np.any(change):
                self.change(value, change.astype(np.float64), None)

    def _pushing(self, step: Step, kind: Sum, index: int, by: Array) -> Callable[[], None]:
        value = step.inputs[index]
        change = kind.signs[index] * by
        return lambda: self.push(value, change, step)

    def push(self, value: ir.Value, by: Array, whose: Step) -> None:
        """p of ``value``, which ``whose`` reads, changes; what gives it changes accordingly."""
        shape = self.shifts.scales.units[value].shape
        if not _spans(by, shape):
            raise _Impossible(f"{whose.name}: the shift differs within a channel")
        if sum(1 for step, _ in self.shifts.network.readers[value] if step is whose) > 1:
            raise _Impossible(f"{whose.name} reads one tensor twice")
        if self.strain > LARGE and len(self.shifts.network.readers[value]) > 1:
            raise _Impossible(f"{whose.name}: its shift is too large for the other readers")
        by = np.broadcast_to(by, shape)
        producer = self.shifts.network.producer.get(value)
        if producer is None:
            raise _Impossible("the tensor is an input of the network")
        self.change(value, by, whose)
        before, self.active = self.active, (*self.active, value)
        self._give(producer, value, by)
        self.active = before

    def _give(self, step: Step, value: ir.Value, by: Array) -> None:
        kind = step.kind
        if isinstance(kind, Linear):
            if not kind.has_bias:
                raise _Impossible(f"{step.name} has no bias")
            self.biases.append(step.name)
        elif isinstance(kind, Affine):
            if kind.is_fill or (self.shifts.stays(step, kind) and step is not self.step):
                self.biases.append(step.name)
                return
            self.backward(step, kind, by)
        elif isinstance(kind, Sum):
            self.first_of([self._pushing(step, kind, i, by) for i in range(len(step.inputs))])
        elif isinstance(kind, View):
            if kind.no_shift is not None:
                raise _Impossible(f"{step.name}: {kind.no_shift}")
            self._give_view(step, kind, value, by)
        else:
            raise _Impossible(f"{step.name} gives what it gives")

    def _give_view(self, step: Step, kind: View, value: ir.Value, by: Array) -> None:
        shapes = [self.shifts.scales.units[x].shape for x in step.inputs]
        wanted = [by if output is value else None for output in step.outputs]
        shares = pulled_back(kind, shapes, wanted)
        if shares is None:
            raise _Impossible(f"{step.name} repeats a channel")
        for x, share in zip(step.inputs, shares, strict=True):
            if np.any(share):
                self.push(x, share, step)

    def backward(self, step: Step, affine: Affine, by: Array) -> None:
        """p of the input of an affine step changes so that p of its output changes by ``by``."""
        if not np.all(affine.s):
            raise _Impossible(f"{step.name}: s = 0")
        x = step.inputs[0]
        change = by / affine.s
        before, self.strain = self.strain, _strain(change, affine)
        self.push(x, change, step)
        self.strain = before


def _strain(change: Array, affine: Affine) -> float:
    """How large a shift of the input of an affine step is against the input itself."""
    if affine.typical is None:
        return np.inf
    return float(np.max(np.abs(change) / np.maximum(affine.typical, np.finfo(float).tiny)))


def _spans(by: Array, shape: tuple[int, ...]) -> bool:
    """Whether ``by`` can be held in the layout ``shape``."""
    return by.ndim <= len(shape) and all(
        n in (1, m) for n, m in zip(by.shape[::-1], shape[::-1], strict=False)
    )


def merged_shifts(network: Network, scales: Scales) -> Shifts:
    """p for every tensor of ``network``, given its scales.

    First what can go forward, in the order of the graph; then what can go backward, the largest
    tensors first, because of several BatchNorms that read one tensor only one can be served.
    """
    shifts = Shifts(network, scales)
    steps = [(step, affine) for step, affine in network.affines() if not affine.is_fill]
    for step, affine in steps:
        _try(shifts, step, affine, backward=False)
    for step, affine in sorted(steps, key=lambda pair: -size_of(pair[0].outputs[0])):
        if not _try(shifts, step, affine, backward=True):
            _try(shifts, step, affine, backward=False)
    return shifts


def _try(shifts: Shifts, step: Step, affine: Affine, backward: bool) -> bool:
    """Whether the step has no shift left, now or after a trial in one direction."""
    m = shifts.left_over(step, affine)
    if not np.any(m):
        return True
    trial = _Trial(shifts, step)
    if backward:
        reason = trial.attempt(lambda: trial.backward(step, affine, -m))
    else:
        reason = trial.attempt(lambda: trial.change(step.outputs[0], m, None))
    if reason is not None:
        shifts.reasons.setdefault(step, reason)
        return False
    for value, change in trial.changes.items():
        shifts.p[value] = shifts.of(value) + change
    shifts.absorbed[step] = sorted(set(trial.biases))
    return True
