"""Blocks: every node in one block, the same structure one block, measured as it is deployed."""

from __future__ import annotations

import random

import numpy as np
import onnx_ir
import onnxruntime
import pytest

from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import candidate_graphs
from fbn_deploy.latency.blocks import FIXED, JOIN, Cutter, block_model
from fbn_deploy.latency.network import network_from
from fbn_deploy.latency.probes import covering_architectures, probe_architectures
from fbn_deploy.space import Architecture, Decision, SearchSpace
from fbn_deploy.supernet.choice import choices
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet

SMALL = {
    "mobilenet": ({"width": 0.25, "depth": 2}, 16),
    "nasbench201": ({"channels": 4, "cells": 1}, 16),
}


class Cuttable:
    """A space exported once."""

    def __init__(self, name: str) -> None:
        options, resolution = SMALL[name]
        self.supernet = build_supernet(definition(name, resolution, options), 10)
        self.graph = candidate_graphs(self.supernet, batch=1)
        self.cutter = Cutter(choices(self.supernet.network))

    def deployed(self, architecture: Architecture) -> onnx_ir.Model:
        return fold_affine(self.graph(architecture))[0]

    def samples(self, count: int) -> list[Architecture]:
        return probe_architectures(self.supernet.space, count)


@pytest.fixture(scope="module", params=sorted(SMALL))
def space(request: pytest.FixtureRequest) -> Cuttable:
    return Cuttable(request.param)


def test_every_live_node_is_in_exactly_one_block(space: Cuttable) -> None:
    for architecture in space.samples(6):
        model = space.deployed(architecture)
        cut = [node.name for each in space.cutter(model) for node in each.nodes]
        assert len(cut) == len(set(cut))
        assert set(cut) <= {node.name for node in model.graph}
        convolutions = [n.name for n in model.graph if n.op_type == "Conv" and _reached(n)]
        assert set(convolutions) <= set(cut)


def test_pools_of_the_same_tensor_are_one_block_and_convolutions_are_not() -> None:
    """A runtime computes what is equal once. Three cells with three edges of a kind each."""
    space = Cuttable("nasbench201")
    parse = space.supernet.definition.module.parse

    def count(cell: str, kind: str) -> int:
        architecture = space.supernet.space.architecture(parse(cell))
        cuts = space.cutter(space.deployed(architecture))
        return sum(cut.block.kind == kind for cut in cuts)

    pools = "|avg_pool_3x3~0|+|avg_pool_3x3~0|none~1|+|avg_pool_3x3~0|none~1|none~2|"
    assert count(pools, "avg_pool_3x3") == 3  # one a cell
    layers = pools.replace(
        "avg_pool_3x3~0|none~1|none", "nor_conv_1x1~0|skip_connect~1|skip_connect"
    )
    layers = layers.replace("avg_pool_3x3", "nor_conv_1x1")
    assert count(layers, "nor_conv_1x1") == 9
    mixed = "|nor_conv_1x1~0|+|none~0|none~1|+|avg_pool_3x3~0|avg_pool_3x3~1|none~2|"
    assert count(mixed, "avg_pool_3x3") == 6


def _reached(node: onnx_ir.Node) -> bool:
    """Whether the network's input leads to the node."""
    value = node.inputs[0]
    assert value is not None
    producer = value.producer()
    return value.is_graph_input() or (producer is not None and _reached(producer))


def test_two_blocks_are_one_exactly_when_their_graphs_have_the_same_structure(
    space: Cuttable,
) -> None:
    structures: dict[str, str] = {}
    for architecture in space.samples(12):
        for cut in space.cutter(space.deployed(architecture)):
            found = network_from(block_model(cut)).hash
            assert structures.setdefault(cut.block.key, found) == found
    assert len(structures) > 10


def test_a_network_run_block_by_block_gives_what_the_whole_gives(space: Cuttable) -> None:
    (architecture,) = space.samples(1)
    model = space.deployed(architecture)
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    values = {"images": image}
    for cut in space.cutter(model):
        session = _session(block_model(cut))
        feeds = {value.name: values[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        values |= dict(zip(names, session.run(names, feeds), strict=True))
    (expected,) = _session(model).run(None, {"images": image})
    np.testing.assert_allclose(values["logits"], expected, rtol=1e-4, atol=1e-5)


def _session(model: onnx_ir.Model) -> onnxruntime.InferenceSession:
    content = onnx_ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_fixed_layers_sums_and_options_are_told_apart(space: Cuttable) -> None:
    """A chain has its sums inside of its blocks; a cell has them at its nodes."""
    blocks = [
        cut.block
        for architecture in space.samples(12)
        for cut in space.cutter(space.deployed(architecture))
    ]
    kinds = {block.kind for block in blocks}
    options = {o for d in space.supernet.space.decisions for o in d.options}
    assert FIXED in kinds
    assert kinds <= options | {FIXED, JOIN}
    assert (JOIN in kinds) == (space.supernet.space.name == "nasbench201")
    assert not {"identity", "none"} & kinds
    assert len({block.key for block in blocks}) < len(blocks) / 2


def test_probes_are_different_valid_networks_and_always_the_same() -> None:
    space = SearchSpace(
        "even",
        tuple(Decision(f"d{i}", ("0", "1", "2")) for i in range(6)),
        is_valid=lambda architecture: sum(map(int, architecture.values())) % 2 == 0,
    )
    first = probe_architectures(space, 40)
    assert first == probe_architectures(space, 40)
    assert len({space.canonical(each) for each in first}) == 40
    assert all(space.is_valid(each) for each in first)


def test_probes_reach_further_than_uniform_draws() -> None:
    space = SearchSpace("digits", tuple(Decision(f"d{i:02}", tuple("0123")) for i in range(20)))

    def spread(architectures: list[Architecture]) -> float:
        return float(np.std([sum(map(int, each.values())) for each in architectures]))

    rng = random.Random(0)
    uniform = spread([space.sample(rng) for _ in range(60)])
    assert spread(probe_architectures(space, 60)) > 1.5 * uniform


def test_the_outermost_networks_of_a_space_are_probes_and_a_quarter_of_them_at_most() -> None:
    space = SearchSpace("digits", tuple(Decision(f"d{i:02}", tuple("0123")) for i in range(20)))
    sums = [sum(map(int, each.values())) for each in probe_architectures(space, 60)]
    assert sums[:4] == [0, 20, 40, 60]
    many = SearchSpace("many", tuple(Decision(f"d{i:02}", tuple("abcdefgh")) for i in range(20)))
    alike = [len(set(each.values())) == 1 for each in probe_architectures(many, 20)]
    assert alike == [True] * 5 + [False] * 15


def test_a_small_space_has_fewer_probes_and_no_end_is_waited_for() -> None:
    tiny = SearchSpace("tiny", (Decision("a", ("0", "1")), Decision("b", ("0", "1"))))
    assert len(probe_architectures(tiny, 60)) == 4


def test_every_option_stands_in_a_covering_architecture() -> None:
    space = SearchSpace("two", (Decision("a", ("0", "1")), Decision("b", ("x", "y", "z"))))
    found = {(name, option) for each in covering_architectures(space) for name, option in
             each.items()}  # fmt: skip
    assert found == {("a", "0"), ("a", "1"), ("b", "x"), ("b", "y"), ("b", "z")}


def test_an_inventory_of_another_space_is_told_apart(space: Cuttable) -> None:
    from fbn_deploy.latency.inventory import Inventory

    about = space.supernet.definition.as_json()
    inventory = Inventory(about, 10, 1, {}, (), {})
    assert inventory.mismatch(about, 10, 1, "fp32", "fair") is None
    assert "classes 10 there, 12 asked" in str(inventory.mismatch(about, 12, 1, "fp32", "fair"))
    other = inventory.mismatch(about, 10, 1, "int8", "conv-only")
    assert "precision fp32 there, int8 asked" in str(other)
    assert "bn fair there, conv-only asked" in str(other)
    with pytest.raises(FBNError, match="no inventory"):
        Inventory.from_json({"schema": 1})
