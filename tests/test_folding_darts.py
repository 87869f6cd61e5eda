"""DARTS cells fold exactly, and what stays is their independent cycles, counted separately.

The count is over single cells, 2 channels wide, built node by node; whole networks come from the
supernet. ``benchmarks/folding_exactness.py`` runs many more of both.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import networkx
import numpy as np
import onnx_ir as ir
import pytest
from test_folding_minimal import Builder, C
from test_folding_networks import errors, is_exact, randomize_batchnorms

from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import Supernet, build_supernet, materialize

POOLS = {"max_pool_3x3": "MaxPool", "avg_pool_3x3": "AveragePool"}
OPS = ("none", *POOLS, "skip_connect", "conv")  # separable and dilated convolutions alike

Node = tuple[tuple[str, int], tuple[str, int]]  # two pairs of op and input


def random_cell(seed: int) -> dict[int, Node]:
    rng = random.Random(seed)
    cell: dict[int, Node] = {}
    for node in range(2, 6):
        a, b = sorted(rng.sample(range(node), 2))
        cell[node] = (rng.choice(OPS), a), (rng.choice(OPS), b)
    return cell


def graph_of(cell: Mapping[int, Node], reduces: bool) -> ir.Model:
    """Two preprocessed states, the cell with a BatchNorm behind every op, and its reader."""
    build = Builder()
    zero = build.weight(np.zeros(()))
    stem = build.conv("x", 3)
    states = [build.batchnorm(build.conv(build.node("Relu", stem), 1)) for _ in range(2)]

    def edge(op: str, i: int) -> str:
        x, strides = states[i], [2, 2] if reduces and i < 2 else [1, 1]
        if op in POOLS:
            y = build.node(POOLS[op], x, kernel_shape=[3, 3], pads=[1] * 4, strides=strides)
        elif op == "skip_connect" and strides == [1, 1]:
            y = x
        elif op == "none":
            pooled = build.node("AveragePool", x, kernel_shape=[1, 1], strides=strides)
            y = build.node("Mul", pooled, zero)
        else:
            y = build.conv(build.node("Relu", x), 3, strides=strides)
        return build.batchnorm(y)

    for first, second in cell.values():
        states.append(build.node("Add", edge(*first), edge(*second)))
    joined = build.node("Concat", *states[2:], axis=1)
    return build.model(build.conv(build.node("Relu", joined), 1, 4 * C))


def least_scales(cell: Mapping[int, Node], reduces: bool) -> int:
    """Independent cycles of the multigraph of skip and pooling edges that carry data."""
    carries, linear = {0, 1}, networkx.MultiGraph()
    for node, entries in cell.items():
        alive = [(op, i) for op, i in entries if op != "none" and i in carries]
        if alive:
            carries.add(node)
        for op, i in alive:
            if op in POOLS or (op == "skip_connect" and not (reduces and i < 2)):
                linear.add_edge(i, node)
    parts = networkx.number_connected_components(linear)
    return linear.number_of_edges() - linear.number_of_nodes() + parts


@pytest.mark.parametrize("reduces", [False, True], ids=["normal", "reduction"])
def test_a_cell_keeps_one_scale_for_each_independent_cycle(reduces):
    kept = set()
    for seed in range(60):
        cell = random_cell(seed)
        _, report = fold_affine(graph_of(cell, reduces))
        assert report.batchnorm_after == 0, cell
        assert report.scales_stayed == least_scales(cell, reduces), cell
        kept.add(report.scales_stayed)
    assert len(kept) > 1


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return build_supernet(definition("darts", 16, {"channels": 4, "cells": 3}), 10)


@pytest.mark.parametrize(("kind", "seed"), [("wild", 0), ("trained", 1)])
def test_networks_compute_the_same_and_keep_what_their_three_cells_keep(supernet, kind, seed):
    architecture = supernet.space.sample(random.Random(seed))
    network = randomize_batchnorms(materialize(supernet.network, architecture), seed, kind)
    folded, unfolded, report = errors(network, onnx_from_module(network, 16), 16)
    assert is_exact(folded, unfolded)
    assert report.batchnorm_after == 0
    if kind == "trained":  # else negative and zero scales stay as well
        normal, reduction = (cell_of(architecture, name) for name in ("normal", "reduce"))
        expected = least_scales(normal, reduces=False) + 2 * least_scales(reduction, reduces=True)
        assert report.scales_stayed == expected


def cell_of(architecture: Architecture, name: str) -> dict[int, Node]:
    def entry(decision: str) -> tuple[str, int]:
        op, _, i = architecture[f"{name}.{decision}"].partition("~")
        return op, int(i)

    return {node: (entry(f"{node}a"), entry(f"{node}b")) for node in range(2, 6)}
