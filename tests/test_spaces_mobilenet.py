"""The MobileNet spaces: counts of published networks, and how their encodings are read."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from counting import bare, counted, params, supernet_without_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet, materialize

# github.com/bychen515/BNNAS, README and the training logs beside it: encoding, FLOPs, parameters
BN_NAS = (
    [3, -1, 0, 4, 0, -1, -1, 0, 4, -1, 4, 4, 1, 4, 2, 0, 0, 4, 0, 2, 2],
    473_549_240,
    5_228_536,
)
SPOS = ([0, -1, 0, 0, 4, -1, -1, 2, 0, -1, 4, 4, 3, 0, 2, 1, 0, 4, 2, 5, 2], 468_807_608, 5_780_560)
# FairNAS-A, B and C (Chu et al. 2021, table 3; layers as in github.com/xiaomi-automl/FairNAS):
# encoding, millions of multiply-adds without and with squeeze-excite, millions of parameters
FAIRNAS = [
    ([4, 0, 4, 1, 5, 0, 0, 5, 5, 2, 1, 2, 2, 1, 1, 5, 1, 5, 3], 388, 392, 4.6),
    ([2, 0, 2, 0, 1, 2, 4, 0, 1, 2, 0, 1, 4, 0, 5, 3, 5, 1, 3], 345, 349, 4.5),
    ([2, 0, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5, 5, 1, 1, 3], 321, 325, 4.4),
]
SMALL = {"width": 0.1, "squeeze_excite": True}
SPACES = {
    skeleton: build_supernet(definition("mobilenet", 8, {**SMALL, "skeleton": skeleton}), 2).space
    for skeleton in ("spos", "fairnas")
}


def full_size(skeleton: str) -> nn.Module:
    options = {"skeleton": skeleton, "width": 1.0, "squeeze_excite": True}
    return supernet_without_weights("mobilenet", 224, 1000, **options)


@pytest.fixture(scope="module")
def spos() -> nn.Module:
    return full_size("spos")


@pytest.fixture(scope="module")
def fairnas() -> nn.Module:
    return full_size("fairnas")


@pytest.mark.parametrize(("encoding", "flops", "size"), [BN_NAS, SPOS], ids=["bn-nas", "spos"])
def test_counts_of_published_networks_are_those_of_bn_nas(
    spos: nn.Module, encoding: list[int], flops: int, size: int
) -> None:
    """BN-NAS counts 2 · 1,728 − 1 operations for each of the classifier's outputs, where a
    multiply-add is one operation here; the rest is equal."""
    network = bare(spos, SPACES["spos"].parse(str(encoding)))
    assert params(network) == size
    assert counted(network, 224)["multiply-adds"] == flops - 1727 * 1000
    assert abs(counted(network, 224)["multiply-adds"] / flops - 1) < 0.01


@pytest.mark.parametrize(("encoding", "plain", "attending", "size"), FAIRNAS, ids="ABC")
def test_counts_of_fairnas_networks_are_those_of_its_paper(
    fairnas: nn.Module, encoding: list[int], plain: float, attending: float, size: float
) -> None:
    """With squeeze-excite only multiply-adds are compared: the paper's has fewer hidden units."""
    space = SPACES["fairnas"]
    network = bare(fairnas, space.parse(str(encoding)))
    assert counted(network, 224)["multiply-adds"] / 1e6 == pytest.approx(plain, abs=0.5)
    assert params(network) / 1e6 == pytest.approx(size, abs=0.06)
    attended = bare(fairnas, space.parse(str([number + 6 for number in encoding])))
    assert counted(attended, 224)["multiply-adds"] / 1e6 == pytest.approx(attending, rel=0.01)


@pytest.mark.parametrize(("skeleton", "layers"), [("spos", 21), ("fairnas", 19)])
def test_numbers_and_names_are_read_alike(skeleton: str, layers: int) -> None:
    space = SPACES[skeleton]
    architecture = space.parse(str([4] * layers))
    assert set(architecture.values()) == {"mb3_k7"}
    assert space.parse(space.text(architecture)) == architecture
    assert len(space.decisions) == layers


@given(st.integers(0, 10_000))
def test_text_and_parse_are_inverse(seed: int) -> None:
    for space in SPACES.values():
        architecture = space.sample(random.Random(seed))
        assert space.parse(space.text(architecture)) == architecture


@pytest.mark.parametrize("wrong", ["[1, 2]", "[]", str([-2] * 21), str([12] * 21), "[a]"])
def test_other_numbers_are_refused(wrong: str) -> None:
    with pytest.raises(FBNError, match="21 or 19 numbers from -1"):
        SPACES["spos"].parse(wrong)


def test_an_identity_where_the_width_changes_is_refused_by_name() -> None:
    with pytest.raises(FBNError, match=r"No option of 'stage6\.0' 'identity'"):
        SPACES["spos"].parse(str([-1] * 21))


def test_an_unknown_skeleton_is_refused() -> None:
    with pytest.raises(FBNError, match="there are: fairnas, spos"):
        definition("mobilenet", 32, {"skeleton": "fair"}).network(10, 0)


def test_identities_of_a_stage_move_to_its_end_and_its_first_layer_stays() -> None:
    space = SPACES["spos"]
    base = space.parse(str([0] * 21))
    one = base.replaced(**{"stage1.1": "identity", "stage1.2": "mb6_k7", "stage4.3": "identity"})
    two = base.replaced(**{"stage1.1": "mb6_k7", "stage1.3": "identity", "stage4.1": "identity"})
    assert space.canonical(one) == space.canonical(two)
    for other in (
        one.replaced(**{"stage1.2": "mb3_k3", "stage1.0": "mb6_k7"}),  # another width and stride
        one.replaced(**{"stage1.2": "mb3_k3", "stage1.3": "mb6_k7"}),  # another order of blocks
        one.replaced(**{"stage4.3": "mb3_k3", "stage3.3": "identity"}),  # another stage
    ):
        assert space.canonical(other) != space.canonical(one)
    deep = {f"stage1.{n}": "mb3_k3" for n in range(12)} | {"stage1.2": "identity"}
    moved = space.canonical(Architecture.of(deep))
    assert moved == space.canonical(Architecture.of({**deep, "stage1.2": "mb3_k3",
                                                     "stage1.11": "identity"}))  # fmt: skip


@pytest.mark.parametrize(
    ("resolution", "options"),
    [
        (32, {"width": 0.25, "depth": 3}),
        (8, {"width": 0.1, "depth": 3}),  # narrow, at stride 1: stages begin with alike layers too
        (16, {"width": 0.1, "depth": 3, "skeleton": "fairnas", "squeeze_excite": True}),
    ],
)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_architectures_of_one_canonical_text_are_one_network(
    resolution: int, options: dict[str, Any], seed: int
) -> None:
    """The blocks of one of them, in their order, fit the other and then give the same function."""
    rng = random.Random(seed)
    made = definition("mobilenet", resolution, options)
    network = made.network(3, 0).eval()
    space = made.search_space(network)
    drawn = space.sample(rng)
    skips = {d.name: "identity" for d in space.decisions if "identity" in d.options}
    some = {name: option for name, option in skips.items() if rng.random() < 0.5}
    one = drawn.replaced(**some)
    two = space.parse(space.canonical(one))
    assert space.canonical(two) == space.canonical(one)
    stages: dict[str, list[str]] = {}
    for decision in space.decisions:
        stages.setdefault(decision.name.partition(".")[0], []).append(decision.name)
    first, second = (materialize(network, each, fair=False) for each in (one, two))
    for names in stages.values():
        blocks = [
            [m.get_submodule(each[name]) for name in names if each[name] != "identity"
             for m in [subnet.get_submodule(name.replace(".", "_"))]]
            for subnet, each in ((first, one), (second, two))
        ]  # fmt: skip
        for source, goal in zip(*blocks, strict=True):
            goal.load_state_dict(source.state_dict())
    x = torch.randn(2, 3, resolution, resolution)
    assert torch.equal(first(x), second(x))
