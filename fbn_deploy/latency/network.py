"""A model as the runtimes get it, and the hash of what its latency depends on.

Latency depends on ops, attributes, shapes, types and topology, not on the values of weights: two
networks that differ only there share their records. What looks like a number but steers shapes or
fusions is hashed with its value: integer and bool constants of up to 1024 elements (targets of
Reshape, starts of Slice) and scalars (the bounds of Clip, the 1/√2 of an exact GELU).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError

if TYPE_CHECKING:
    import onnx
    import onnx_ir

_MAX_STEERING_ELEMENTS = 1024


@dataclass(frozen=True)
class Network:
    """A model for a runtime (``source``), the hash of its structure, its inputs' shapes."""

    source: bytes | Path
    hash: str
    inputs: Mapping[str, tuple[int | None, ...]]
    """Input name → shape; None where a dimension is free."""

    def input_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shapes with every free dimension set to ``batch``."""
        return {
            name: tuple(batch if size is None else size for size in shape)
            for name, shape in self.inputs.items()
        }


def network_from(model: onnx_ir.Model | bytes | Path | Network) -> Network:
    """``model`` ready for a target, or as it is where that was done before (then the onnx package
    is not needed). Raises ``FBNError`` like ``proto_from``."""
    if isinstance(model, Network):
        return model
    source, proto = proto_from(model)
    return Network(source, structure_hash(proto), _inputs(proto))


def proto_from(model: onnx_ir.Model | bytes | Path) -> tuple[bytes | Path, onnx.ModelProto]:
    """What a target opens, and the model as protobuf. A file stays a file, so that the weights
    beside it are found.

    Raises ``FBNError`` when there is no such file or it is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not isinstance(model, bytes | Path):
        import onnx_ir

        proto = onnx_ir.to_proto(model)
        return proto.SerializeToString(), proto
    try:
        content = model.read_bytes() if isinstance(model, Path) else model
        proto = onnx.ModelProto.FromString(content)
    except FileNotFoundError:
        raise FBNError(f"There is no ONNX file {model!s}.") from None
    except (OSError, DecodeError) as error:
        raise FBNError(f"Cannot read {_label(model)}: {error}. It is no ONNX model.") from error
    if not proto.graph.node:
        raise FBNError(f"{_label(model)} is no ONNX model, or one without any node.")
    return model, proto


def structure_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of the structure: the same whatever the weights, the names of nodes and values,
    and the documentation are."""
    digest = hashlib.sha256()
    for opset in sorted((item.domain, item.version) for item in model.opset_import):
        digest.update(repr(opset).encode())
    for function in model.functions:
        header = (function.domain, function.name, tuple(function.attribute))
        digest.update(repr(header).encode())
        _hash_nodes(digest, function.node, _Names(), list(function.input), list(function.output))
    _hash_graph(digest, model.graph, _Names())
    return digest.hexdigest()


def _inputs(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name: _shape(value) for value in model.graph.input if value.name not in weights}


class _Names(dict[str, int]):
    """Value name → number in order of first sight, so that renaming changes nothing."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def _hash_graph(digest: Any, graph: onnx.GraphProto, names: _Names) -> None:
    """Inputs, nodes, outputs, and each initializer when a node first reads it."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in constants:
            digest.update(repr(("input", names[value.name], _type(value))).encode())
    inputs = [name for node in graph.node for name in node.input if name in constants]
    for name in dict.fromkeys(inputs):
        digest.update(repr(("constant", names[name], _tensor(constants[name]))).encode())
    _hash_nodes(digest, graph.node, names, [], [value.name for value in graph.output])


def _hash_nodes(
    digest: Any,
    nodes: Iterable[onnx.NodeProto],
    names: _Names,
    inputs: list[str],
    outputs: list[str],
) -> None:
    digest.update(repr([names[name] for name in inputs]).encode())
    for node in nodes:
        reads = [names[name] if name else None for name in node.input]
        attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
        values = [(item.name, _attribute(item, names)) for item in attributes]
        writes = [names[name] if name else None for name in node.output]
        digest.update(repr((node.domain, node.op_type, reads, values, writes)).encode())
    digest.update(repr([names[name] for name in outputs]).encode())


def _attribute(attribute: onnx.AttributeProto, names: _Names) -> object:
    """The attribute's value; tensors by shape, subgraphs by their own hash."""
    import onnx

    if attribute.ref_attr_name:
        return ("reference", attribute.ref_attr_name)
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes | int | float):
        return value
    if isinstance(value, onnx.TensorProto | onnx.GraphProto):
        return _attribute_item(value, names)
    return [_attribute_item(item, names) for item in value]


def _attribute_item(item: object, names: _Names) -> object:
    import onnx

    if isinstance(item, onnx.TensorProto):
        return _tensor(item)
    if isinstance(item, onnx.GraphProto):
        digest = hashlib.sha256()
        _hash_graph(digest, item, names)
        return digest.hexdigest()
    return item if isinstance(item, bytes | str | int | float) else repr(item)


def _tensor(tensor: onnx.TensorProto) -> object:
    """Type and shape; with the values where they steer shapes or fusions."""
    import onnx

    elements = 1
    for size in tensor.dims:
        elements *= size
    steers = tensor.data_type in (
        onnx.TensorProto.INT32,
        onnx.TensorProto.INT64,
        onnx.TensorProto.BOOL,
    )
    described = (tensor.data_type, tuple(tensor.dims))
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return described
    if elements <= 1 or (steers and elements <= _MAX_STEERING_ELEMENTS):
        return (*described, onnx.numpy_helper.to_array(tensor).tolist())
    return described


def _type(value: onnx.ValueInfoProto) -> object:
    return (value.type.tensor_type.elem_type, _shape(value))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """A free dimension is None, whatever it is called."""
    return tuple(
        size.dim_value if size.HasField("dim_value") else None
        for size in value.type.tensor_type.shape.dim
    )


def _label(model: bytes | Path) -> str:
    return str(model) if isinstance(model, Path) else "the model"
