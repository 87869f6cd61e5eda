"""A latency is measured on a graph that looks like a trained network's."""

from __future__ import annotations

from collections import Counter

import onnx_ir
import torch
from torch import nn

from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import candidate_graphs, onnx_from_module
from fbn_deploy.supernet.aging import as_if_trained
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.fairbn import FairBN
from fbn_deploy.supernet.supernet import build_supernet, materialize

CELL = "|nor_conv_1x1~0|+|avg_pool_3x3~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"


def test_a_network_is_left_as_it_was_and_its_copy_is_always_the_same() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 1), FairBN(nn.Identity(), 16), nn.BatchNorm2d(16))
    aged, again = as_if_trained(network), as_if_trained(network)
    assert network[1].bn.weight.eq(1).all()
    assert not network[2].bias.any()
    for one, other in zip(aged.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert aged[1].bn.weight.gt(0).all()
    assert aged[2].weight.lt(0).nonzero().flatten().tolist() == [0, 8]
    assert torch.equal(aged[0].weight, network[0].weight)


def test_what_is_measured_of_an_untrained_supernet_keeps_what_training_leaves() -> None:
    """The cell has a cycle of BatchNorms without convolutions, 0 → 3 and 0 → 2 → 3, so a scale
    stays in each of three cells; at initialisation all are 1, and nothing would stay. Other values
    than those that are measured with leave as much."""
    chosen = definition("nasbench201", 16, {"cells": 1, "channels": 8})
    supernet = build_supernet(chosen, 10)
    architecture = supernet.space.architecture(chosen.module.parse(CELL))
    measured, report = fold_affine(candidate_graphs(supernet, 1)(architecture))
    assert report.scales_stayed >= 3
    rng = torch.Generator().manual_seed(1)
    network = materialize(supernet.network, architecture)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    added = {id(module.bn) for module in network.modules() if isinstance(module, FairBN)}
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.1, 3.0, generator=rng)
        nn.init.normal_(norm.bias, generator=rng)
        norm.weight.data[5] *= -1 if id(norm) not in added else 1
    deployed, _ = fold_affine(onnx_from_module(network.eval(), 16))
    assert operators(measured) == operators(deployed)


def operators(model: onnx_ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)
