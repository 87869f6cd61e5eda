"""Seams: what passes from op to op, in a graph small enough to count by hand."""

from __future__ import annotations

import onnx_ir
from onnx import TensorProto, helper

from fbn_deploy.latency.composition import seams_of


def test_seams_are_the_bytes_that_pass_and_those_computed_again() -> None:
    """Two convolutions read one ReLU that is written twice; their sum goes through a grouped one.

    A tensor of 1·4·8·8 numbers in float32 has 1,024 bytes."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
    between = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8])
        for name in ("r1", "r2", "c1", "c2", "s", "y")
    ]
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, [4, inner, 1, 1], [0.1] * 4 * inner)
        for name, inner in (("w", 4), ("v", 4), ("g", 1))
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["r1"], name="relu1"),
        helper.make_node("Relu", ["x"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r1", "w"], ["c1"], name="conv1"),
        helper.make_node("Conv", ["r2", "v"], ["c2"], name="conv2"),
        helper.make_node("Add", ["c1", "c2"], ["s"], name="add"),
        helper.make_node("Conv", ["s", "g"], ["y"], name="grouped", group=4),
    ]
    graph = helper.make_graph(nodes, "g", [image], [between[5]], weights, value_info=between[:5])
    model = onnx_ir.from_proto(helper.make_model(graph))
    assert seams_of(model) == {
        "Add>GroupedConv": 1024e-6,
        "Conv>Add": 2 * 1024e-6,
        "Relu again": 1024e-6,
        "Relu>Conv": 2 * 1024e-6,
    }
