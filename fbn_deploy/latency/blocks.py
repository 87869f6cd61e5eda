"""A deployed graph cut into the blocks of its space: what a latency is predicted from.

A block is what one choice put there (an op at an input shape, stride and width, folded as it will
be deployed), or a stretch of fixed layers between choices. A fixed node that joins several tensors
(the sum at a node of a cell) is a block of its own, because what it joins changes with the
architecture. Ops that fold to nothing, such as an identity, leave no block.

Blocks are told apart by the structure of their graph alone, so that a space of 10²⁰ networks has
some dozens of them: the same op at the same shape is one block wherever it stands.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

FIXED, JOIN = "fixed", "join"
_STEERING_ELEMENTS = 1024  # as in network.py: integers that steer shapes are part of the structure
BYTES = 4  # of a float32


@dataclass(frozen=True)
class Block:
    """What is known of a block without measuring it. Sums over a network's blocks are features
    of the network."""

    key: str
    """Hash of the structure: ops, attributes, shapes and types."""
    kind: str
    """The option of the choice that put it there; ``fixed`` or ``join`` outside of choices."""
    name: str
    """For people: kind and input shape, ``mb6_k3 24×32×32``."""
    nodes: int
    activations_mb: float
    """What its nodes write, in 10⁶ bytes."""
    weights_mb: float
    multiply_adds: float
    """Of its convolutions and matrix products, in 10⁶."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Block:
        return cls(**value)


@dataclass(frozen=True)
class Cut:
    """One block as it stands in one network, with its nodes."""

    block: Block
    nodes: tuple[ir.Node, ...]
    path: str
    """The module path of its choice; empty outside of choices."""


class Cutter:
    """Cuts the deployed graphs of one space. ``choice_paths`` are the module paths of its
    choices, as ``supernet.choice.choices`` names them."""

    def __init__(self, choice_paths: Collection[str]) -> None:
        self._paths = sorted((f"{path}." for path in choice_paths), key=len, reverse=True)

    def __call__(self, deployed: ir.Model) -> list[Cut]:
        """The blocks of a network in topological order. Every node is in exactly one, apart from
        those that no input reaches: a runtime computes them once, when it loads the network; and
        from blocks without weights that compute what another one does, of the same tensors (two
        pools of a cell's input): it computes those once as well."""
        live = live_values(deployed)
        nodes = [node for node in deployed.graph if not live.isdisjoint(node.outputs)]
        groups = _components([(node, self._label(node, live)) for node in nodes])
        again, _ = repeated(nodes)
        return [
            Cut(_block(kind, nodes), nodes, place[:-1] if place in self._paths else "")
            for (place, kind), nodes in groups
            if not again.issuperset(id(node) for node in nodes)
        ]

    def _label(self, node: ir.Node, live: set[ir.Value]) -> tuple[str, str]:
        """Where the node belongs and its kind: (choice path, option), or fixed, or a join."""
        name = node.name or ""
        for path in self._paths:
            if name.startswith(path):
                rest = name[len(path) :]
                return path, rest.partition("/")[0].partition(".")[0]
        if sum(value in live for value in node.inputs) > 1:
            return f"{name}#{id(node)}", JOIN
        return "", FIXED


def block_model(cut: Cut) -> ir.Model:
    """The block as a model of its own: its boundary values become inputs and outputs."""
    from fbn_deploy.export.subgraph import model_from_nodes

    boundary = [value for value in _read(cut.nodes) if not value.is_initializer()]
    return model_from_nodes(cut.nodes, boundary, list(_written(cut.nodes)))


def live_values(model: ir.Model) -> set[ir.Value]:
    """The values that depend on the model's inputs."""
    live = set(model.graph.inputs)
    for node in model.graph:
        if not live.isdisjoint(value for value in node.inputs if value is not None):
            live.update(node.outputs)
    return live


def repeated(nodes: Sequence[ir.Node]) -> tuple[set[int], dict[int, int]]:
    """The ids of those among ``nodes`` that do what an earlier one did; and the id of each value
    that they write → that of the equal one that comes first."""
    same: dict[int, int] = {}
    first: dict[tuple[object, ...], ir.Node] = {}
    again: set[int] = set()
    for node in nodes:
        reads = tuple(same.get(id(value), id(value)) for value in node.inputs)
        attributes = sorted(f"{name}={item.value!r}" for name, item in node.attributes.items())
        earlier = first.setdefault((node.domain, node.op_type, reads, *attributes), node)
        if earlier is not node:
            again.add(id(node))
            for value, known in zip(node.outputs, earlier.outputs, strict=True):
                same[id(value)] = same.get(id(known), id(known))
    return again, same


def _components(
    labelled: Sequence[tuple[ir.Node, tuple[str, str]]],
) -> list[tuple[tuple[str, str], tuple[ir.Node, ...]]]:
    """(label, nodes) of the connected parts of each label, in the order of their first nodes."""
    label = {id(node): where for node, where in labelled}
    parent = {id(node): id(node) for node, _ in labelled}

    def root(key: int) -> int:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for node, where in labelled:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and label.get(id(producer)) == where:
                parent[root(id(node))] = root(id(producer))
    found: dict[int, list[ir.Node]] = {}
    for node, _ in labelled:
        found.setdefault(root(id(node)), []).append(node)
    return [(label[id(nodes[0])], tuple(nodes)) for nodes in found.values()]


def _block(kind: str, nodes: tuple[ir.Node, ...]) -> Block:
    constants = [value for value in _read(nodes) if value.is_initializer()]
    data = next(value for value in _read(nodes) if not value.is_initializer())
    shape = "×".join(str(size) for size in _shape(data)[1:])
    what = nodes[0].op_type.lower() if kind in (FIXED, JOIN) and len(nodes) == 1 else kind
    return Block(
        key=_structure(kind, nodes),
        kind=kind,
        name=f"{what} {shape}",
        nodes=len(nodes),
        activations_mb=sum(elements(v) for node in nodes for v in node.outputs) * BYTES / 1e6,
        weights_mb=sum(elements(value) for value in constants) * BYTES / 1e6,
        multiply_adds=sum(_multiply_adds(node) for node in nodes) / 1e6,
    )


def _structure(kind: str, nodes: tuple[ir.Node, ...]) -> str:
    """Hash of the structure, as ``network.structure_hash`` would tell two blocks apart."""
    numbers: dict[int, int] = {}
    digest = hashlib.sha256(kind.encode())
    written = {id(value) for value in _written(nodes)}
    for node in nodes:
        reads = []
        for value in node.inputs:
            if value is None:
                reads.append("-")
                continue
            known = numbers.setdefault(id(value), len(numbers))
            reads.append(f"{known}:{value.dtype}:{_shape(value)}:{_steering(value)}")
        attributes = sorted(f"{name}={item.value!r}" for name, item in node.attributes.items())
        writes = [numbers.setdefault(id(value), len(numbers)) for value in node.outputs]
        leaves = [id(value) in written for value in node.outputs]
        shapes = [_shape(value) for value in node.outputs]
        line = (node.domain, node.op_type, reads, attributes, writes, leaves, shapes)
        digest.update(repr(line).encode())
    return digest.hexdigest()[:32]


def _steering(value: ir.Value) -> str:
    """The values of a constant that are structure: scalars, and small integers."""
    if not value.is_initializer() or value.const_value is None:
        return ""
    tensor, count = value.const_value, elements(value)
    integer = tensor.dtype.is_integer() or tensor.dtype.name == "BOOL"
    if count <= 1 or (integer and count <= _STEERING_ELEMENTS):
        return str(tensor.numpy().tolist())
    return ""


def _read(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """The values that ``nodes`` read and do not write, each once."""
    inside = {id(value) for node in nodes for value in node.outputs}
    found: dict[int, ir.Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None and id(value) not in inside:
                found.setdefault(id(value), value)
    return list(found.values())


def _written(nodes: Sequence[ir.Node]) -> Iterator[ir.Value]:
    """The values of ``nodes`` that others read, or that leave the graph."""
    inside = {id(node) for node in nodes}
    for node in nodes:
        for value in node.outputs:
            readers = [reader for reader, _ in value.uses()]
            if value.is_graph_output() or any(id(reader) not in inside for reader in readers):
                yield value


def _shape(value: ir.Value) -> tuple[int, ...]:
    constant = value.const_value
    shape = value.shape if value.shape is not None or constant is None else constant.shape
    assert shape is not None, f"A deployed graph has shapes; {value.name} has none."
    return tuple(size if isinstance(size, int) else 1 for size in shape)


def elements(value: ir.Value) -> int:
    """How many numbers it holds."""
    return math.prod(_shape(value))


def _multiply_adds(node: ir.Node) -> float:
    """Output elements times the weights that each of them meets."""
    if node.op_type == "Conv" and node.inputs[1] is not None:
        return elements(node.outputs[0]) * math.prod(_shape(node.inputs[1])[1:])
    if node.op_type in ("Gemm", "MatMul") and node.inputs[0] is not None:
        inner = _shape(node.inputs[0])[-1]
        return elements(node.outputs[0]) * inner
    return 0.0
