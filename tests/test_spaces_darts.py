"""The DARTS cells: genotypes, known counts, canonical forms, and what retraining is offered."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from counting import bare, counted, params, supernet_without_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import StochasticDepth

from fbn_deploy.errors import FBNError
from fbn_deploy.space import SearchSpace
from fbn_deploy.supernet.choice import choices, select_path
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.fairbn import last_batchnorm
from fbn_deploy.supernet.supernet import Supernet, build_supernet, materialize

TINY: dict[str, Any] = {"channels": 4, "cells": 3}
FAIR: Supernet = build_supernet(definition("darts", 8, TINY), 3)
SPACE: SearchSpace = FAIR.space

# github.com/quark0/darts, cnn/genotypes.py of its second-order search (V2)
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
    "reduce_concat=[2, 3, 4, 5])"
)
# github.com/yuhuixu1993/PC-DARTS, genotypes.py: PC_DARTS_image
PC_DARTS = (
    "Genotype(normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), "
    "('skip_connect', 1), ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), "
    "('dil_conv_5x5', 4)], normal_concat=range(2, 6), reduce=[('sep_conv_3x3', 0), "
    "('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1), ('sep_conv_3x3', 2), "
    "('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)], reduce_concat=range(2, 6))"
)
# github.com/D-X-Y/AutoDL-Projects, lib/nas_infer_model/DXYs/genotypes.py: GDAS_V1, pairs a node
GDAS = (
    "Genotype(normal=[(('skip_connect', 0), ('skip_connect', 1)), (('skip_connect', 0), "
    "('sep_conv_5x5', 2)), (('sep_conv_3x3', 3), ('skip_connect', 0)), (('sep_conv_5x5', 4), "
    "('sep_conv_3x3', 3))], normal_concat=[2, 3, 4, 5], reduce=[(('sep_conv_5x5', 0), "
    "('sep_conv_3x3', 1)), (('sep_conv_5x5', 2), ('sep_conv_5x5', 1)), (('dil_conv_5x5', 2), "
    "('sep_conv_3x3', 1)), (('sep_conv_5x5', 0), ('sep_conv_5x5', 1))], "
    "reduce_concat=[2, 3, 4, 5])"
)


@pytest.fixture(scope="module")
def imagenet() -> nn.Module:
    return supernet_without_weights("darts", 224, 1000, skeleton="imagenet")


@pytest.fixture(scope="module")
def wider_imagenet() -> nn.Module:
    return supernet_without_weights("darts", 224, 1000, skeleton="imagenet", channels=50)


def test_darts_v2_on_cifar_has_the_parameters_of_its_paper() -> None:
    """3.3 M (Liu et al. 2019, table 1); its code's log says 3.349342 without the auxiliary head."""
    network = supernet_without_weights("darts", 32, 10)
    assert params(bare(network, SPACE.parse(DARTS_V2))) == 3_349_342


def test_gdas_on_imagenet_has_the_parameters_and_flops_of_its_paper(
    wider_imagenet: nn.Module,
) -> None:
    """5.3 M and 581 M (Dong and Yang 2019, table 4), with the 50 channels of its script."""
    network = bare(wider_imagenet, SPACE.parse(GDAS))
    assert params(network) / 1e6 == pytest.approx(5.3, abs=0.05)
    assert counted(network, 224)["multiply-adds"] / 1e6 == pytest.approx(581, abs=0.5)


def test_pc_darts_on_imagenet_has_the_parameters_and_flops_of_its_paper(
    imagenet: nn.Module,
) -> None:
    """5.3 M and 597 M (Xu et al. 2020, table 2). The 597 M have one operation for each output of a
    ReLU and two for each of a BatchNorm beside the 581.6 M multiply-adds, as ptflops counts."""
    network = bare(imagenet, SPACE.parse(PC_DARTS))
    count = counted(network, 224)
    assert params(network) / 1e6 == pytest.approx(5.3, abs=0.05)
    assert count["multiply-adds"] / 1e6 == pytest.approx(581.6, abs=0.1)
    total = count["multiply-adds"] + count["ReLU"] + 2 * count["BatchNorm2d"]
    assert total / 1e6 == pytest.approx(597, abs=0.5)


def test_darts_v2_on_imagenet_has_the_parameters_of_its_paper_and_fewer_flops(
    imagenet: nn.Module, wider_imagenet: nn.Module
) -> None:
    """4.7 M (Liu et al. 2019, table 3) at its code's 48 channels. The 574 M beside it are not
    what that network counts: others found 523 M and, by ptflops, 544.6 M
    (github.com/quark0/darts/issues/46). They are the multiply-adds with 50 channels."""
    network = bare(imagenet, SPACE.parse(DARTS_V2))
    count = counted(network, 224)
    assert params(network) / 1e6 == pytest.approx(4.7, abs=0.05)
    assert count["multiply-adds"] / 1e6 == pytest.approx(529.9, abs=0.1)
    total = count["multiply-adds"] + count["ReLU"] + 2 * count["BatchNorm2d"]
    assert total / 1e6 == pytest.approx(544.6, rel=0.003)
    wider = bare(wider_imagenet, SPACE.parse(DARTS_V2))
    assert counted(wider, 224)["multiply-adds"] / 1e6 == pytest.approx(574, rel=0.002)


def test_costs_of_options_add_up_to_those_of_the_network() -> None:
    """fvcore adds one for each input of the global pooling: 2×2 pixels of 64 channels."""
    architecture = FAIR.space.sample(random.Random(0))
    count = counted(bare(FAIR.network, architecture).to("meta"), 8)
    assert cost_table(FAIR).flops(architecture) == count["multiply-adds"] + 2 * 2 * 64


@given(st.integers(0, 10_000))
def test_text_and_parse_are_inverse(seed: int) -> None:
    architecture = SPACE.sample(random.Random(seed))
    assert SPACE.parse(SPACE.text(architecture)) == architecture


def test_a_genotype_is_written_as_darts_writes_it_inputs_ascending() -> None:
    text = SPACE.text(SPACE.parse(DARTS_V2))
    assert text.startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ")
    assert text.endswith(", ('max_pool_3x3', 1), ('skip_connect', 2)], reduce_concat=range(2, 6))")
    assert SPACE.parse(text) == SPACE.parse(DARTS_V2)


@given(st.integers(0, 10_000))
def test_sampling_mutation_and_crossover_keep_two_inputs_a_node(seed: int) -> None:
    rng = random.Random(seed)
    a, b = SPACE.sample(rng), SPACE.sample(rng)
    for child in (a, SPACE.mutate(a, rng, 0.3), SPACE.crossover(a, b, rng)):
        assert SPACE.parse(SPACE.text(child)) == child
        for cell, node in itertools.product(("normal", "reduce"), range(2, 6)):
            inputs = [int(child[f"{cell}.{node}{slot}"][-1]) for slot in "ab"]
            assert 0 <= inputs[0] < inputs[1] < node


def test_the_space_has_as_many_valid_genotypes_as_darts_counts() -> None:
    """Per cell 1 · 3 · 6 · 10 pairs of inputs (the paper's ∏ (k+1)k/2) and 8 ops on each entry."""
    pairs = 1
    for node in range(2, 6):
        slots = [d for d in SPACE.decisions if d.name.startswith(f"normal.{node}")]
        assert all(len(d.options) == 8 * (node - 1) for d in slots)
        inputs = [sorted({int(option[-1]) for option in d.options}) for d in slots]
        pairs *= sum(a < b for a, b in itertools.product(*inputs))
    assert pairs == 1 * 3 * 6 * 10


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=[3, 4, 5]", "normal_concat is not"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)", "node 5 of normal cannot read input 5"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)", "node 5 of normal reads input 0 twice"),
        ("dil_conv_3x3", "sep_conv_7x7", "there is no op 'sep_conv_7x7'"),
        ("('dil_conv_3x3', 2)", "'dil_conv_3x3'", "no pair of an op and an input"),
        (", ('dil_conv_3x3', 2)", "", "7 entries where 8 belong"),
        (", reduce_concat=[2, 3, 4, 5]", "", "no field 'reduce_concat'"),
        ("Genotype(", "dict(1, ", "it is no Genotype"),
        ("reduce=[", "reduce=print([", "Cannot read"),
    ],
)
def test_other_genotypes_are_refused_with_the_reason(old: str, new: str, reason: str) -> None:
    wrong = DARTS_V2.replace(old, new)
    assert wrong != DARTS_V2
    with pytest.raises(FBNError, match=r"Cannot read the DARTS genotype.*Write Genotype") as error:
        SPACE.parse(wrong)
    assert reason in str(error.value)


def reordered(genotype: str, cell: str, order: tuple[int, ...]) -> str:
    """The genotype with the nodes of a cell renumbered; fails where a node would read a later."""
    architecture = SPACE.parse(genotype)
    number = {0: 0, 1: 1} | dict(zip(order, range(2, 6), strict=True))
    entries = []
    for node in order:
        for slot in "ba":
            op, _, i = architecture[f"{cell}.{node}{slot}"].partition("~")
            entries.append((op, number[int(i)]))
    text = SPACE.text(architecture)
    start = text.index(f"{cell}=[") + len(cell) + 1
    return text[:start] + str(entries) + text[text.index("]", start) + 1 :]


@given(st.integers(0, 10_000))
def test_reordered_nodes_and_swapped_inputs_share_a_canonical_form(seed: int) -> None:
    architecture = SPACE.sample(random.Random(seed))
    expected, found = SPACE.canonical(architecture), 0
    for order in itertools.permutations(range(2, 6)):
        try:
            other = SPACE.parse(reordered(SPACE.text(architecture), "normal", order))
        except FBNError:
            continue  # a node would stand before its input
        found += 1
        assert SPACE.canonical(other) == expected
    assert found


def test_reordered_nodes_give_the_same_network_up_to_the_order_of_channels() -> None:
    """Nodes 2 and 3 of V2's normal cell read states 0 and 1 only; exchanged, the cell's output has
    its channels exchanged."""
    supernet = build_supernet(definition("darts", 8, TINY), 3, bn="conv-only")
    (one, two) = (DARTS_V2, reordered(DARTS_V2, "normal", (3, 2, 4, 5)))
    assert SPACE.parse(one) != SPACE.parse(two)
    cell = supernet.network.get_submodule("cells.0").eval()
    edges = {key: cell.get_submodule(f"edges.{key}") for key in ("2a", "2b", "3a", "3b")}
    x = torch.randn(2, 12, 8, 8)
    select_path(cell, SPACE.parse(one))
    expected = cell(x, x)
    for slot in "ab":
        first, second = (edges[f"{node}{slot}"].candidates for node in (2, 3))
        for i in (0, 1):
            option = f"sep_conv_3x3~{i}"
            if option in first and option in second:
                first[option], second[option] = second[option], first[option]
    option = "dil_conv_3x3"
    last = cell.get_submodule("edges.5b").candidates
    last[f"{option}~3"].op = last[f"{option}~2"].op
    select_path(cell, SPACE.parse(two))
    found = cell(x, x).chunk(4, 1)
    torch.testing.assert_close(torch.cat([found[n] for n in (1, 0, 2, 3)], 1), expected)


def test_what_none_reads_does_not_matter_and_a_changed_op_does() -> None:
    architecture = SPACE.parse(DARTS_V2)
    one, two = (architecture.replaced(**{"normal.5b": f"none~{i}"}) for i in (2, 4))
    assert SPACE.canonical(one) == SPACE.canonical(two) != SPACE.canonical(architecture)


def test_ops_on_a_node_that_reads_nothing_are_pruned() -> None:
    """Node 3 of the normal cell reads nothing, and 4b and 5b read node 3."""
    nothing = SPACE.parse(DARTS_V2).replaced(**{"normal.3a": "none~0", "normal.3b": "none~2"})
    dead = nothing.replaced(**{"normal.4b": "sep_conv_5x5~3", "normal.5b": "skip_connect~3"})
    assert SPACE.pruned(dead) == nothing.replaced(**{"normal.4b": "none~3", "normal.5b": "none~3"})
    assert SPACE.pruned(nothing) == nothing


def test_a_cell_that_reads_nothing_is_invalid() -> None:
    architecture = SPACE.parse(DARTS_V2)
    nothing = {d.name: "none~1" for d in SPACE.decisions if d.name.startswith("normal")}
    for node in range(2, 6):
        nothing[f"normal.{node}a"] = "none~0"
    assert SPACE.is_valid(architecture)
    assert not SPACE.is_valid(architecture.replaced(**nothing))


@pytest.mark.parametrize(
    ("options", "resolution", "asked"),
    [
        ({"skeleton": "svhn"}, 32, "'svhn'"),
        ({"channels": 7}, 32, "7 channels"),
        ({"cells": 2}, 32, "2 cells"),
        ({"skeleton": "imagenet"}, 48, "resolution 48"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], resolution: int, asked: str) -> None:
    with pytest.raises(FBNError, match=asked):
        definition("darts", resolution, options).network(10, 0)


def test_the_reductions_stand_at_one_and_two_thirds(imagenet: nn.Module) -> None:
    cells = imagenet.get_submodule("cells").children()
    assert [n for n, cell in enumerate(cells) if cell.reduces] == [14 // 3, 2 * 14 // 3]


def test_an_auxiliary_classifier_speaks_in_training_only() -> None:
    network: Any = materialize(FAIR.network, FAIR.space.parse(DARTS_V2))
    x = torch.randn(4, 3, 8, 8)
    assert network.train()(x).shape == (4, 3)
    network.add_auxiliary()
    logits, auxiliary = network(x)
    assert logits.shape == auxiliary.shape == (4, 3)
    assert network.eval()(x).shape == (4, 3)


def test_the_auxiliary_classifier_has_the_parameters_of_the_paper(imagenet: nn.Module) -> None:
    """On 768 channels: 1×1 to 128, 2×2 to 768, 1,000 classes, and the two BatchNorms."""
    network: Any = bare(imagenet, SPACE.parse(DARTS_V2))
    network.add_auxiliary()
    own = 768 * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * 1000 + 1000
    assert sum(p.numel() for p in network.auxiliary.parameters()) == own
    assert network.auxiliary(torch.zeros(2, 768, 7, 7, device="meta")).shape == (2, 1000)


def test_drop_path_spares_plain_identities_and_vanishes_at_probability_zero() -> None:
    supernet = build_supernet(definition("darts", 8, TINY), 3, bn="conv-only")
    cell: Any = materialize(supernet.network, SPACE.parse(DARTS_V2), fair=False).cells[0]
    x = torch.randn(2, 12, 8, 8)
    kept = cell.train()(x, x)
    assert isinstance(cell.drop_path, StochasticDepth)
    assert torch.equal(cell(x, x), kept)
    cell.drop_path.p = 1.0
    nodes = cell(x, x).chunk(4, 1)
    s0 = cell.preprocess0(x)
    assert not nodes[0].any()
    assert not nodes[1].any()
    torch.testing.assert_close(nodes[2], s0)  # V2: node 4 is skip_connect on state 0 and a conv
    torch.testing.assert_close(nodes[3], s0)


def test_a_path_of_a_fair_supernet_gives_gradients_to_the_last_batchnorm_of_each_entry() -> None:
    blocks = list(choices(FAIR.network).values())
    assert len(blocks) == 8 * 3
    assert len({block.decision.name for block in blocks}) == 8 * 2
    select_path(FAIR.network.train(), SPACE.sample(random.Random(3)))
    FAIR.network(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for block in blocks:
        end = last_batchnorm(block.op)
        assert end is not None
        assert end.weight.grad is not None
