"""One node of the graph as the rules see it: attributes, constants and shapes, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from fbn_deploy.export.folding.kinds import AnyArray, Array, Blocked, Shape

FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)


@dataclass(frozen=True)
class Operator:
    """A node with the opset version that gives it its meaning."""

    node: ir.Node
    opset: int

    def attribute(self, name: str, default: Any) -> Any:
        """The value of an attribute; ``default`` where the node does not set it."""
        found = self.node.attributes.get(name)
        if found is None:
            return default
        if found.is_ref():
            raise Blocked(f"attribute {name} belongs to a function")
        return found.value

    def input(self, index: int) -> ir.Value | None:
        """An operand; None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Sizes of a tensor, a name or None for one that is not known; None: not even a rank."""
        return shape_of(value)

    def known_shape(self, value: ir.Value | None) -> Shape:
        """The shape; raises ``Blocked`` where not even the rank is known."""
        shape = shape_of(value)
        if shape is None:
            raise Blocked("the rank of a tensor here is not known")
        return shape

    def constant(self, index: int) -> AnyArray | None:
        """The value of an operand that never changes; None for one that is data or left out."""
        return constant_of(self.input(index))

    def required(self, index: int, what: str) -> Array:
        """A constant operand in double precision; raises ``Blocked`` for one that is data."""
        found = self.constant(index)
        if found is None:
            raise Blocked(f"its {what} is computed while the network runs")
        if not np.all(np.isfinite(found.astype(np.float64))):
            raise Blocked(f"its {what} has values that are not finite")
        return found.astype(np.float64)

    def integers(self, index: int, name: str) -> list[int] | None:
        """Integers that older opsets keep in an attribute and newer ones in an operand."""
        if self.input(index) is not None:
            found = self.constant(index)
            if found is None:
                raise Blocked(f"its {name} are computed while the network runs")
            return [int(item) for item in found.reshape(-1)]
        listed = self.attribute(name, None)
        return None if listed is None else [int(item) for item in listed]


def shape_of(value: ir.Value | None) -> Shape | None:
    """Sizes of a tensor; see ``Operator.shape``."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def constant_of(value: ir.Value | None) -> AnyArray | None:
    """What a value always holds: an initializer that no caller can override, or a Constant."""
    if value is None or value.is_graph_input():
        return None
    producer = value.producer()
    if producer is not None:
        if producer.op_type == "Identity" and not producer.domain:
            return constant_of(producer.inputs[0])
        if producer.op_type != "Constant" or producer.domain:
            return None
    return _array(ir.convenience.get_const_tensor(value))


def _array(tensor: ir.TensorProtocol | None) -> AnyArray | None:
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    return np.asarray(tensor.numpy())


def size_of(value: ir.Value) -> int:
    """How many numbers one image's tensor holds; unknown sizes count as one."""
    product = 1
    for size in shape_of(value) or ():
        product *= size if isinstance(size, int) else 1
    return product
