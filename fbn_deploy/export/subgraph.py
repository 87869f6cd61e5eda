"""Some nodes of a graph as a model of their own; the graph they come from is not changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

IR_VERSION = 10  # what PyTorch's exporter writes


def model_from_nodes(
    nodes: Sequence[ir.Node],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    instead: Mapping[ir.Value, ir.Value] | None = None,
) -> ir.Model:
    """A model of copies of ``nodes``, which are in topological order and of one graph.

    ``inputs`` and ``outputs`` become the model's; initializers that the nodes read come along,
    their tensors shared. Where a node reads a key of ``instead``, its copy reads the value there.
    """
    graph = nodes[0].graph
    assert isinstance(graph, ir.Graph), "The nodes belong to a graph."
    copies: dict[ir.Value, ir.Value] = {value: _copied(value) for value in inputs}
    initializers: list[ir.Value] = []

    def copy_of(value: ir.Value) -> ir.Value:
        while instead is not None and value in instead:
            value = instead[value]
        if value not in copies:
            assert value.is_initializer(), f"{value.name} is read and neither written nor input."
            copies[value] = _copied(value)
            copies[value].const_value = value.const_value
            initializers.append(copies[value])
        return copies[value]

    copied: list[ir.Node] = []
    for node in nodes:
        read = [None if value is None else copy_of(value) for value in node.inputs]
        copies.update((value, _copied(value)) for value in node.outputs)
        copied.append(
            ir.Node(
                node.domain,
                node.op_type,
                read,
                list(node.attributes.values()),
                overload=node.overload,
                outputs=[copies[value] for value in node.outputs],
                version=node.version,
                name=node.name,
            )
        )
    return ir.Model(
        ir.Graph(
            [copies[value] for value in inputs],
            [copy_of(value) for value in outputs],
            nodes=copied,
            initializers=initializers,
            opset_imports={node.domain: graph.opset_imports[node.domain] for node in nodes},
            name=graph.name,
        ),
        ir_version=IR_VERSION,
        producer_name="fbn_deploy",
    )


def _copied(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, type=value.type, shape=value.shape)
