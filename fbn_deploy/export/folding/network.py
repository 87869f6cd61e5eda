"""The graph as a list of steps, each of a known kind, and who reads what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from fbn_deploy.export.folding.kinds import Affine, Kind, Linear, Wall
from fbn_deploy.export.folding.operator import Operator, constant_of
from fbn_deploy.export.folding.rules import FIRST_ONLY, ruling


@dataclass(eq=False)
class Step:
    """One node, or several that act as one: ``nodes`` in the order of the graph."""

    nodes: list[ir.Node]
    kind: Kind
    inputs: list[ir.Value]
    outputs: list[ir.Value]
    derived: bool = False
    """Whether the node itself reads more than ``inputs``, so that it cannot be left as it is."""

    @property
    def name(self) -> str:
        """How the report calls it: by its node, else by what it gives."""
        node = self.nodes[-1]
        return node.name or self.outputs[0].name or node.op_type

    @property
    def has_batchnorm(self) -> bool:
        return any(node.op_type == "BatchNormalization" for node in self.nodes)


@dataclass
class Network:
    """Steps in an order in which each comes after what it reads."""

    steps: list[Step]
    fixed: frozenset[ir.Value]
    """Values that are seen from outside: graph outputs, and what a subgraph reads."""
    readers: dict[ir.Value, list[tuple[Step, int]]] = field(default_factory=dict)
    producer: dict[ir.Value, Step] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        """Finds anew who reads and who gives each value, after steps have changed."""
        self.readers, self.producer = {}, {}
        for step in self.steps:
            for index, value in enumerate(step.inputs):
                self.readers.setdefault(value, []).append((step, index))
            for value in step.outputs:
                self.producer[value] = step

    def drop_unread(self) -> None:
        """Forgets the steps that nothing outside depends on."""
        live: set[ir.Value] = set(self.fixed)
        kept: list[Step] = []
        for step in reversed(self.steps):
            if any(value in live for value in step.outputs):
                live.update(step.inputs)
                kept.append(step)
        self.steps = kept[::-1]
        self.connect()

    def affines(self) -> Iterator[tuple[Step, Affine]]:
        """Every step that still scales and shifts."""
        for step in self.steps:
            if isinstance(step.kind, Affine):
                yield step, step.kind


def network_from_graph(graph: ir.Graph, opset: int) -> Network:
    """Every node of the main graph under its rule; constants are no steps."""
    steps = []
    outside = set(graph.outputs)
    for node in graph:
        outside.update(_captured(node))
        if node.op_type == "Constant" and not node.domain:
            continue
        kind, operands = ruling(Operator(node, opset))
        if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            kind, operands = Wall("it holds a subgraph, which is left alone"), list(_given(node))
        data = [value for value in operands if constant_of(value) is None]
        if isinstance(kind, Wall):
            operands = data
        steps.append(Step([node], kind, list(operands), _followed(node, kind)))
    return Network(steps, frozenset(outside))


def _followed(node: ir.Node, kind: Kind) -> list[ir.Value]:
    """The outputs of a node, without those that its kind does not know and nothing reads."""
    first_only = node.op_type in FIRST_ONLY and not isinstance(kind, Wall)
    return list(node.outputs[:1] if first_only else node.outputs)


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _given(node: ir.Node) -> Iterable[ir.Value]:
    return (value for value in node.inputs if value is not None)


def subgraphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in the attributes of a node."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """What the subgraphs of ``node`` may read from outside (and what they read at all)."""
    for graph in subgraphs_of(node):
        yield from graph.outputs
        for inner in graph.all_nodes():
            yield from _given(inner)


def merge_neighbours(network: Network) -> list[tuple[Step, Step]]:
    """Joins every affine step to the linear or affine step that only it reads.

    This is what every fuser does. It needs no gauge and takes any s, zero and negative too.
    Returns (affine step, step it became a part of).
    """
    merged: list[tuple[Step, Step]] = []
    gone: set[Step] = set()
    for step, affine in list(network.affines()):
        value = step.inputs[0]
        before = network.producer.get(value)
        if before is None or before in gone or affine.is_fill or value in network.fixed:
            continue
        if len(network.readers[value]) > 1 or not isinstance(before.kind, Linear | Affine):
            continue
        joined = before.kind.then(affine)
        if joined is None or (isinstance(joined, Affine) and joined.is_fill):
            continue
        original = Step(step.nodes, affine, step.inputs, step.outputs)
        before.kind = joined
        before.nodes = [*before.nodes, *step.nodes]
        before.derived = before.derived or step.derived
        before.outputs = step.outputs
        network.producer[step.outputs[0]] = before
        gone.add(step)
        merged.append((original, before))
    network.steps = [step for step in network.steps if step not in gone]
    network.connect()
    return merged
