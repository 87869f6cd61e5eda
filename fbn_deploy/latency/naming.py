"""Which node of the model a layer of a runtime is.

A runtime calls a kernel after the node, after a value that it writes, or after one of these with
something of its own around it. A fused kernel bears the name of the last value that it writes, a
Relu's or a Cast's, while the time is the convolution's: from there the way goes up, over nodes that
have no kernel of their own, to an op that the kernel computes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from fbn_deploy.targets import LayerTime

_FORMATS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


def named(source: bytes | Path, model: onnx.ModelProto) -> tuple[bytes | Path, onnx.ModelProto]:
    """Both with every node called after its output where it had no name: what a runtime makes of a
    nameless node, nobody finds again. A model of more than 2 GB stays as it is."""
    import onnx

    if all(node.name for node in model.graph.node):
        return source, model
    copy = onnx.load(source) if isinstance(source, Path) else onnx.ModelProto.FromString(source)
    taken = {node.name for node in copy.graph.node}
    for node in copy.graph.node:
        if not node.name:
            node.name = _free(next(filter(None, node.output), node.op_type), taken)
    try:
        return copy.SerializeToString(), copy
    except ValueError:  # protobuf's limit, with the weights that lay beside the file
        return source, model


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


class Nodes:
    """The model's nodes by name and by the values that they write; ``times`` are all its layers."""

    def __init__(self, model: onnx.ModelProto, times: Iterable[LayerTime]) -> None:
        times = list(times)
        nodes: list[onnx.NodeProto] = list(model.graph.node)
        self._by_name = {node.name: node for node in nodes if node.name}
        self._by_value = {value: node for node in nodes for value in node.output if value}
        self._layers = {(time.name, time.op) for time in times}
        self._ends = {id(end) for time in times for end in self._ends_of(time)}

    def fused(self, time: LayerTime) -> tuple[str, ...]:
        """The names of the nodes that the runtime says to be in it."""
        return tuple(name for name in time.nodes if name in self._by_name)

    def behind(self, time: LayerTime) -> onnx.NodeProto | None:
        """The node that a layer stands for; None for one that the runtime added.

        What only changes a format, as a Cast does, gives way to what it was fused with.
        """
        fused = [self._by_name[name] for name in self.fused(time)]
        node = self._called(time) or next(iter(fused), None)
        if node is not None and node.op_type in _FORMATS:
            return next((each for each in fused if each.op_type not in _FORMATS), node)
        return node

    def _called(self, time: LayerTime) -> onnx.NodeProto | None:
        """By the layer's names. What is not its whole name counts only for an op it computes."""
        called = self._bearing(time.name)
        if called is not None and time.name not in self._by_value:
            return called
        ops = time.computes or (time.op,)
        found = (self._computing(ops, end) for end in self._ends_of(time))
        return next(filter(None, found), called)

    def _bearing(self, name: str) -> onnx.NodeProto | None:
        """The node of that name, or the one that writes the value of that name."""
        return self._by_name.get(name) or self._by_value.get(name)

    def _ends_of(self, time: LayerTime) -> Iterator[onnx.NodeProto]:
        """The nodes that its names are of: the last of those in it. A layer ``x_token_2`` beside
        ``x`` of the same op is no second ``x``, but was added."""
        for name in (time.name, *time.aliases):
            end = self._bearing(name)
            if end is not None and (name == time.name or (name, time.op) not in self._layers):
                yield end

    def _computing(self, ops: Collection[str], end: onnx.NodeProto) -> onnx.NodeProto | None:
        """The one node of ``ops`` at ``end`` or above it, before any at which another layer ends;
        None where several could be meant."""
        found, ways, seen = [], [end], {id(end)}
        while ways:
            node = ways.pop()
            if node.op_type in ops:
                found.append(node)
                continue
            for above in filter(None, map(self._by_value.get, node.input)):
                if id(above) not in seen | self._ends:
                    seen.add(id(above))
                    ways.append(above)
        return found[0] if len(found) == 1 else None
