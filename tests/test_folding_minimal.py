"""What stays is the least that can: counted for NAS-Bench-201 cells by a second, separate theory.

The cells are single ones between a convolution and a classifier, 2 channels wide, built node by
node so that hundreds fold in seconds. ``benchmarks/folding_exactness.py`` runs all 15,625.
"""

from __future__ import annotations

import itertools
import random

import networkx
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from fbn_deploy.export.folding import fold_affine

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
LINEAR = ("skip_connect", "avg_pool_3x3")
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
C = 2


class Builder:
    """Nodes and weights of one graph; every method gives the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, op_type: str, *inputs: str, **attributes) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def conv(self, x: str, kernel: int, ins: int = C, **attributes) -> str:
        w = self.weight(self.rng.normal(size=(C, ins, kernel, kernel)))
        return self.node("Conv", x, w, pads=[kernel // 2] * 4, **attributes)

    def batchnorm(self, x: str) -> str:
        drawn = [self.rng.uniform(0.5, 2, C) for _ in range(4)]
        return self.node("BatchNormalization", x, *map(self.weight, drawn))

    def model(self, output: str) -> ir.Model:
        sizes = ["N", C, 8, 8]
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("GlobalAveragePool", [output], ["y"])],
            "cell",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", C, 1, 1])],
            self.weights,
            value_info=[
                helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, sizes)
                for node in self.nodes
            ],
        )
        opsets = [helper.make_opsetid("", 17)]
        return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def cell(ops: dict[tuple[int, int], str]) -> ir.Model:
    """Stem convolution, one cell with a BatchNorm behind every op, Relu, 3×3, global pooling."""
    build = Builder()
    zero = build.weight(np.zeros(()))
    nodes = [build.batchnorm(build.conv("x", 3))]
    for j in (1, 2, 3):
        terms = []
        for i in range(j):
            op, x = ops[j, i], nodes[i]
            if op == "none":
                y = build.node("Mul", x, zero)
            elif op == "avg_pool_3x3":
                y = build.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)
            elif op == "skip_connect":
                y = x
            else:
                y = build.conv(build.node("Relu", x), 1 if op.endswith("1x1") else 3)
            terms.append(build.batchnorm(y))
        total = terms[0]
        for term in terms[1:]:
            total = build.node("Add", total, term)
        nodes.append(total)
    return build.model(build.conv(build.node("Relu", nodes[3]), 3))


def least_scales(ops: dict[tuple[int, int], str]) -> int:
    """Independent cycles of the multigraph of linear edges that carry data to the output."""
    graph = networkx.MultiGraph()
    carries = {0}
    for j in (1, 2, 3):
        if any(i in carries and ops[j, i] != "none" for i in range(j)):
            carries.add(j)
    wanted = {3}
    for j in (3, 2, 1):
        if j in wanted:
            wanted |= {i for i in range(j) if ops[j, i] != "none"}
    for (j, i), op in ops.items():
        if op in LINEAR and i in carries and j in wanted:
            graph.add_edge(i, j)
    parts = networkx.number_connected_components(graph)
    return graph.number_of_edges() - graph.number_of_nodes() + parts


def sums_without_convolution(ops: dict[tuple[int, int], str]) -> int:
    """Nodes whose sum has a shift to carry and no convolution of its own."""
    return sum(all("conv" not in ops[j, i] for i in range(j)) for j in (1, 2, 3))


def patterns():
    """Every assignment of none / linear / convolution to the edges, ops of a kind at random."""
    rng = random.Random(0)
    kinds = (("none",), LINEAR, ("nor_conv_1x1", "nor_conv_3x3"))
    for choice in itertools.product(kinds, repeat=len(EDGES)):
        yield {edge: rng.choice(kind) for edge, kind in zip(EDGES, choice, strict=True)}


def test_every_pattern_of_a_cell_keeps_the_least_scales_and_shifts_only_without_convolution():
    """729 patterns stand for the 15,625 cells: only the kind of an edge enters the theory."""
    kept = []
    for ops in patterns():
        _, report = fold_affine(cell(ops))
        assert report.batchnorm_after == 0, ops
        assert report.scales_stayed == least_scales(ops), ops
        assert report.shifts_stayed <= sums_without_convolution(ops), ops
        weight = 1
        for op in ops.values():
            weight *= 1 if op == "none" else 2
        kept.append((weight, report.scales_stayed))
    assert sum(weight for weight, _ in kept) == len(OPS) ** len(EDGES)
    mean = sum(weight * scales for weight, scales in kept) / len(OPS) ** len(EDGES)
    assert mean <= 0.26


def test_a_chain_of_cells_keeps_what_its_cells_keep():
    build = Builder()
    x = build.batchnorm(build.conv("x", 3))
    for _ in range(3):
        a = build.batchnorm(build.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4))
        b = build.batchnorm(x)
        c = build.batchnorm(build.conv(build.node("Relu", x), 3))
        x = build.node("Add", build.node("Add", a, b), c)
    _, report = fold_affine(build.model(build.conv(build.node("Relu", x), 1)))
    assert (report.scales_stayed, report.shifts_stayed) == (3, 0)
