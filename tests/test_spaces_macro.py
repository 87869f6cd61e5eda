"""NAS-Bench-Macro: the benchmark's own counts, its canonical names, and its supernet."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.space import SearchSpace
from fbn_deploy.supernet.choice import Choice, each_choice_input, select_path
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.fairbn import FairBN
from fbn_deploy.supernet.frozen import train_only_batchnorm
from fbn_deploy.supernet.supernet import Supernet, build_supernet, materialize

# Rows of nas-bench-macro_cifar10.json (github.com/xiusu/NAS-Bench-Macro):
# name, the same network with its identities last, parameters, FLOPs.
ROWS = [
    ("00000000", "00000000", 387_882, 7_713_280),
    ("00000001", "00000010", 791_594, 14_115_328),
    ("00000002", "00000020", 1_219_370, 20_910_592),
    ("01112111", "01112111", 1_696_042, 56_130_048),
    ("20112001", "20112010", 1_167_402, 48_886_272),
    ("22201200", "22210200", 934_890, 58_155_520),
    ("00201101", "00210110", 1_091_498, 34_404_864),
    ("22200122", "22200122", 2_329_578, 73_067_008),
]
TINY: dict[str, Any] = {"width": 0.1}
SPACE: SearchSpace = build_supernet(definition("nasbench_macro", 8, TINY), 2).space


@pytest.fixture(scope="module")
def full_size() -> Supernet:
    return build_supernet(definition("nasbench_macro"), 10)


@pytest.fixture
def tiny() -> Supernet:
    return build_supernet(definition("nasbench_macro", 16, TINY), 3)


@pytest.mark.parametrize(("digits", "canonical", "params"), [row[:3] for row in ROWS])
def test_parameters_and_canonical_names_equal_the_benchmarks(
    full_size: Supernet, digits: str, canonical: str, params: int
) -> None:
    architecture = full_size.space.parse(digits)
    bare = materialize(full_size.network, architecture, fair=False)
    assert sum(p.numel() for p in bare.parameters()) == params
    assert full_size.space.canonical(architecture) == canonical


def test_multiply_adds_are_the_benchmarks_and_the_pooling(full_size: Supernet) -> None:
    """The benchmark counts convolutions and the classifier; fvcore adds one for each input of the
    global pooling: 1,280 channels of 4×4."""
    table = cost_table(full_size)
    for digits, _, _, flops in ROWS:
        assert table.flops(full_size.space.parse(digits)) == flops + 1280 * 4 * 4


def test_the_network_of_identities_adds_up_by_hand(full_size: Supernet) -> None:
    bare = materialize(full_size.network, full_size.space.parse("0" * 8), fair=False)
    stem, reductions = 27 * 32 + 64, 32 * 64 + 128 + 64 * 128 + 256 + 128 * 256 + 512
    head, classifier = 256 * 1280 + 2560, 1280 * 10 + 10
    assert sum(p.numel() for p in bare.parameters()) == stem + reductions + head + classifier


def test_activations_are_plain_relus(full_size: Supernet) -> None:
    assert not any(isinstance(m, nn.ReLU6) for m in full_size.network.modules())


@given(st.integers(0, 10_000))
def test_text_and_parse_are_inverse(seed: int) -> None:
    architecture = SPACE.sample(random.Random(seed))
    assert SPACE.parse(SPACE.text(architecture)) == architecture


@given(st.text(alphabet="012", min_size=8, max_size=8))
def test_a_canonical_name_is_its_own_canonical_name(digits: str) -> None:
    canonical = SPACE.canonical(SPACE.parse(digits))
    assert SPACE.canonical(SPACE.parse(canonical)) == canonical
    assert sorted(canonical) == sorted(digits)


@pytest.mark.parametrize("wrong", ["", "0120120", "012012013", "0120120a", "01201203"])
def test_other_texts_are_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(FBNError, match="12021012"):
        SPACE.parse(wrong)


def test_zeros_that_a_column_of_numbers_lost_are_put_back() -> None:
    assert SPACE.parse("1201201") == SPACE.parse("01201201")
    assert SPACE.parse("0") == SPACE.parse("00000000")


def test_moved_identities_give_the_same_function() -> None:
    """00|101|000 and 00|110|000: one block, after or before an identity."""
    one, two = SPACE.parse("00101000"), SPACE.parse("00110000")
    assert SPACE.canonical(one) == SPACE.canonical(two)
    network = definition("nasbench_macro", 16, TINY).network(3, 0).eval()
    blocks = {m.decision.name: m for m in network.modules() if isinstance(m, Choice)}
    blocks["stage2.1"].candidates["mb3_k3"] = blocks["stage2.2"].candidates["mb3_k3"]
    x = torch.randn(2, 3, 16, 16)
    outputs = []
    for architecture in (one, two):
        select_path(network, architecture)
        outputs.append(network(x))
    assert torch.equal(*outputs)


def test_children_are_architectures_of_the_space() -> None:
    rng = random.Random(0)
    a, b = SPACE.sample(rng), SPACE.sample(rng)
    for child in (SPACE.mutate(a, rng, 0.5), SPACE.crossover(a, b, rng)):
        assert SPACE.architecture(child) == child


def test_every_option_of_every_choice_gives_one_shape(tiny: Supernet) -> None:
    with each_choice_input(tiny.network) as inputs:
        tiny.network(torch.zeros(2, 3, 16, 16))
    blocks = {path: m for path, m in tiny.network.named_modules() if isinstance(m, Choice)}
    assert len(blocks) == 8
    for path, choice in blocks.items():
        assert choice.decision.options == ("identity", "mb3_k3", "mb6_k5")
        assert len({op(*inputs[path][0]).shape for op in choice.candidates.values()}) == 1


def test_only_the_plain_identities_get_a_batchnorm(tiny: Supernet) -> None:
    assert sum(isinstance(m, FairBN) for m in tiny.network.modules()) == 8 - 3


def test_the_fair_supernet_trains_a_step(tiny: Supernet) -> None:
    network = train_only_batchnorm(tiny.network.train())
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.1)
    select_path(network, tiny.space.parse("01201201"))
    before = [p.detach().clone() for p in parameters]
    nn.functional.cross_entropy(
        network(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])
    ).backward()
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    assert all(torch.isfinite(p).all() for p in parameters)
