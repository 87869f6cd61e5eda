"""Choices, fair BatchNorm, BN-only training, subnets, and the open ONNX graph."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from fbn_deploy.data import load_data
from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import closed, onnx_from_supernet
from fbn_deploy.progress import Silent
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import Choice, select_path
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.fairbn import FairBN, last_batchnorm, make_fair
from fbn_deploy.supernet.frozen import train_only_batchnorm
from fbn_deploy.supernet.paths import fair, uniform
from fbn_deploy.supernet.supernet import Supernet, build_supernet, materialize
from fbn_deploy.supernet.training import SupernetSettings, train_supernet
from fbn_deploy.targets import ready_target

SMALL = {
    "nasbench201": {"channels": 4, "cells": 1},
    "mobilenet": {"width": 0.1, "depth": 2},
    "darts": {"channels": 2, "cells": 3},
}
QUICKLY_EXPORTED = ("nasbench201", "mobilenet")  # open darts cells take half a minute


def small(space: str, bn: str = "fair") -> Supernet:
    return build_supernet(definition(space, 16, SMALL[space]), 3, bn=bn)


@pytest.mark.parametrize("space", SMALL)
def test_every_candidate_op_of_a_fair_supernet_ends_in_a_batchnorm(space: str) -> None:
    blocks = [m for m in small(space).network.modules() if isinstance(m, Choice)]
    assert blocks
    assert all(last_batchnorm(op) for block in blocks for op in block.candidates.values())


@pytest.mark.parametrize("space", [*SMALL, "nasbench_macro"])
def test_the_batchnorms_that_end_ops_are_found_in_a_trained_supernet_as_in_a_new_one(
    space: str,
) -> None:
    options = SMALL.get(space, {"width": 0.1})
    new, trained = (build_supernet(definition(space, 16, options), 3) for _ in range(2))
    train_only_batchnorm(trained.network)  # puts ops in place that torch.fx cannot trace
    architecture = new.space.sample(random.Random(0))
    paths = [
        [
            path
            for path, module in each.network.named_modules()
            if module in each.choice_ends(architecture)
        ]
        for each in (new, trained)
    ]
    assert paths[0]
    assert paths[0] == paths[1]


@pytest.mark.parametrize("setting", ["affine", "track_running_stats"])
def test_a_batchnorm_without_scales_or_statistics_is_refused(setting: str, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "from fbn_deploy.supernet.choice import Choice\n\n\n"
        "def network(num_classes, resolution):\n"
        "    ops = {'a': nn.Conv2d(3, 4, 1), 'b': nn.Conv2d(3, 4, 3, padding=1)}\n"
        f"    norm = nn.BatchNorm2d(4, {setting}=False)\n"
        "    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(Choice('c', ops), norm, pool, nn.Linear(4, num_classes))\n"
    )
    with pytest.raises(FBNError, match=f"{setting}=True"):
        build_supernet(definition(str(tmp_path / "plain.py"), 16), 3)


def test_conv_only_adds_no_batchnorm() -> None:
    assert not any(
        isinstance(m, FairBN) for m in small("nasbench201", "conv-only").network.modules()
    )


def test_candidates_of_different_shape_are_refused_by_name() -> None:
    wrong = Choice("width", {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 5, 1)})
    with pytest.raises(FBNError, match="'width'"):
        make_fair(nn.Sequential(wrong), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("space", SMALL)
def test_a_materialized_subnet_computes_what_its_path_computes(space: str) -> None:
    supernet = small(space)
    architecture = supernet.space.sample(random.Random(1))
    select_path(supernet.network.eval(), architecture)
    x = torch.randn(2, 3, 16, 16)
    subnet = materialize(supernet.network, architecture)
    assert not any(isinstance(m, Choice) for m in subnet.modules())
    assert torch.equal(subnet(x), supernet.network(x))


def test_an_op_that_several_choices_share_stays_where_it_is_chosen() -> None:
    skip = nn.Identity()
    ops = [{"skip": skip, "conv": nn.Conv2d(3, 3, 1)} for _ in range(3)]
    network = nn.Sequential(*(Choice(f"layer{n}", each) for n, each in enumerate(ops)))
    architecture = Architecture.of({"layer0": "skip", "layer1": "conv", "layer2": "skip"})
    x = torch.randn(2, 3, 8, 8)
    subnet = materialize(network, architecture)
    assert torch.equal(subnet(x), ops[1]["conv"](x))
    assert sum(isinstance(m, nn.Conv2d) for m in subnet.modules()) == 1


LINEAR = """
from torch import nn
from fbn_deploy.supernet.choice import Choice


def network(num_classes, resolution):
    pool = [nn.AdaptiveAvgPool2d(2), nn.Flatten({flatten})]
    ops = {{"linear": nn.Linear({width}, {width}), "skip": nn.Identity()}}
    last = [Choice("x", ops), nn.ReLU(), nn.Flatten(), nn.Linear(12, num_classes)]
    return nn.Sequential(*pool, *last)
"""


@pytest.mark.parametrize("option", ["linear", "skip"])
def test_linear_candidates_get_a_batchnorm_that_folds_away(option: str, tmp_path: Path) -> None:
    (tmp_path / "linear.py").write_text(LINEAR.format(flatten="", width=12))
    supernet = build_supernet(definition(str(tmp_path / "linear.py"), 16), 3)
    found = [m for m in supernet.network.modules() if isinstance(m, FairBN)]
    assert [type(each.bn) for each in found] == [nn.BatchNorm1d] * 2
    for each in found:
        each.bn.weight.data.uniform_(0.5, 2.0)
        each.bn.bias.data.normal_()
    architecture = supernet.space.architecture({"x": option})
    model, _ = fold_affine(closed(onnx_from_supernet(supernet, 1), architecture))
    assert "BatchNormalization" not in [node.op_type for node in model.graph]
    x = torch.randn(1, 3, 16, 16)
    select_path(supernet.network.eval(), architecture)
    content = ir.to_proto(model).SerializeToString()
    with ready_target("onnxruntime-cpu").open(content, batch=1, threads=1) as session:
        answer = session.run({"images": x.numpy()})["logits"]
    np.testing.assert_allclose(answer, supernet.network(x).detach().numpy(), atol=1e-5)


def test_outputs_that_no_fair_batchnorm_takes_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokens.py").write_text(LINEAR.format(flatten=2, width=4))
    space = definition(str(tmp_path / "tokens.py"), 16)
    with pytest.raises(FBNError, match=r"'x' at 2: option 'linear' gives \(2, 3, 4\)"):
        build_supernet(space, 3)
    build_supernet(space, 3, bn="conv-only")


@pytest.mark.parametrize("space", SMALL)
def test_lean_ops_give_the_gradients_of_pytorch(space: str) -> None:
    lean, plain = small(space), small(space)
    train_only_batchnorm(lean.network)
    architecture = lean.space.sample(random.Random(2))
    x = torch.randn(4, 3, 16, 16)
    for supernet in (lean, plain):
        select_path(supernet.network.train(), architecture)
        supernet.network(x).square().sum().backward()
    expected = dict(plain.network.named_parameters())
    trained = {n: p for n, p in lean.network.named_parameters() if p.grad is not None}
    assert trained
    for name, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4)


def test_only_batchnorms_are_trained() -> None:
    network = train_only_batchnorm(small("mobilenet").network)
    norms = {
        id(p) for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    }
    assert {id(p) for p in network.parameters() if p.requires_grad} == norms


def test_strict_fairness_activates_every_option_once_a_step() -> None:
    decisions = small("nasbench201").space.decisions
    paths = fair(decisions, 0, 7)
    assert len(paths) == 5
    for decision in decisions:
        assert sorted(path[decision.name] for path in paths) == sorted(decision.options)


def test_a_sampler_depends_on_seed_and_step_only() -> None:
    decisions = small("mobilenet").space.decisions
    assert uniform(decisions, 3, 5) == uniform(decisions, 3, 5)
    assert uniform(decisions, 3, 5) != uniform(decisions, 3, 6)


def test_no_epochs_leave_the_supernet_at_its_initialisation(tmp_path: Path) -> None:
    data = load_data(None, resolution=16, seed=0)
    supernet = build_supernet(definition("mobilenet", 16, SMALL["mobilenet"]), 10)
    before = {name: value.clone() for name, value in supernet.network.state_dict().items()}
    train_supernet(
        supernet,
        data,
        SupernetSettings(epochs=0),
        checkpoint=tmp_path / "checkpoint.safetensors",
        about={},
        reporter=Silent(),
    )
    after = supernet.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_classifier_is_trained_beside_the_batchnorms_if_asked(tmp_path: Path) -> None:
    supernet = build_supernet(definition("mobilenet", 16, SMALL["mobilenet"]), 10)
    before = {name: value.clone() for name, value in supernet.network.named_parameters()}
    train_supernet(
        supernet,
        load_data(None, resolution=16, seed=0),
        SupernetSettings(epochs=0.2, batch_size=64, train="bn+classifier"),
        checkpoint=tmp_path / "checkpoint.safetensors",
        about={},
        reporter=Silent(),
    )
    changed = {n for n, p in supernet.network.named_parameters() if not torch.equal(p, before[n])}
    norms = {
        f"{name}.{part}"
        for name, module in supernet.network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    assert {name for name in changed if name not in norms} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert changed & norms


class Killed(Exception):
    """Stands for SIGKILL in a test."""


def test_a_killed_training_ends_bit_by_bit_like_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(None, resolution=16, seed=0)
    settings = SupernetSettings(epochs=0.5, batch_size=64)

    def run(checkpoint: Path, kill_at: int | None) -> dict[str, torch.Tensor]:
        supernet = build_supernet(definition("mobilenet", 16, SMALL["mobilenet"]), 10)
        # As a user's space may have one; its random numbers hang on seed and step, too.
        supernet.network.classifier = nn.Sequential(nn.Dropout(0.3), supernet.network.classifier)

        if kill_at is not None:
            calls = {"n": 0}
            original = torch.optim.Adam.step

            def step(self, *args, **kwargs):  # type: ignore[no-untyped-def]
                calls["n"] += 1
                if calls["n"] > kill_at:
                    raise Killed
                return original(self, *args, **kwargs)

            monkeypatch.setattr(torch.optim.Adam, "step", step)
        try:
            train_supernet(
                supernet, data, settings, checkpoint=checkpoint, about={}, reporter=Silent()
            )
        finally:
            monkeypatch.undo()
            monkeypatch.setattr("fbn_deploy.loop.SAVE_EVERY_S", -1.0)
        return dict(supernet.network.state_dict())

    monkeypatch.setattr("fbn_deploy.loop.SAVE_EVERY_S", -1.0)
    whole = run(tmp_path / "whole.safetensors", None)
    with pytest.raises(Killed):
        run(tmp_path / "broken.safetensors", 3)
    before = torch.get_rng_state()
    resumed = run(tmp_path / "broken.safetensors", None)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("space", QUICKLY_EXPORTED)
def test_a_closed_and_folded_graph_computes_what_the_path_computes(space: str) -> None:
    supernet = small(space)
    for module in supernet.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    model = onnx_from_supernet(supernet, 1)
    x = torch.randn(1, 3, 16, 16)
    for seed in range(3):
        architecture = supernet.space.sample(random.Random(seed))
        folded, _ = fold_affine(closed(model, architecture))
        select_path(supernet.network.eval(), architecture)
        expected = supernet.network(x).detach().numpy()
        content = ir.to_proto(folded).SerializeToString()
        with ready_target("onnxruntime-cpu").open(content, batch=1, threads=1) as session:
            answer = session.run({"images": x.numpy()})["logits"]
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


def test_parameters_of_nasbench201_match_the_benchmark() -> None:
    supernet = build_supernet(definition("nasbench201"), 10)
    text = (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|"
        "+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    )
    architecture = supernet.space.parse(text)
    bare = materialize(supernet.network, architecture, fair=False)
    assert sum(p.numel() for p in bare.parameters()) == 802_426
    assert supernet.space.text(architecture) == text


def test_costs_add_up_to_the_convolutions_counted_by_hand() -> None:
    supernet = build_supernet(definition("nasbench201", 8, {"channels": 4, "cells": 1}), 2)
    table = cost_table(supernet)
    skip = {decision.name: "skip_connect" for decision in supernet.space.decisions}
    base = supernet.space.architecture(skip)
    conv = base.replaced(**{"1<-0": "nor_conv_1x1"})
    # one 1×1 convolution a stage: 4·4 at 8×8, 8·8 at 4×4, 16·16 at 2×2
    assert table.flops(conv) - table.flops(base) == 16 * 64 + 64 * 16 + 256 * 4
    assert table.params(conv) - table.params(base) == (16 + 4) + (64 + 8) + (256 + 16)


class Twice(nn.Module):
    """A choice that every forward pass runs at full resolution and at half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1, bias=False)
        wide, narrow = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.choice = Choice("op", {"wide": wide, "narrow": narrow, "skip": nn.Identity()})
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.avg_pool2d(self.choice(self.stem(x)), 2)
        return self.head(self.choice(x).mean((2, 3)))


@pytest.mark.parametrize("bn", ["fair", "conv-only"])
def test_an_op_that_runs_twice_costs_its_flops_twice_and_its_weights_once(bn: str) -> None:
    space = SimpleNamespace(
        name="twice", example=lambda n=1: torch.zeros(n, 3, 8, 8), builds_subnets=False
    )
    network = Twice()
    if bn == "fair":
        make_fair(network, space.example(2))
    supernet = Supernet(network, cast(Any, None), cast(Any, space), 2, bn)
    table = cost_table(supernet)
    of = {option: Architecture.of({"op": option}) for option in ("wide", "narrow", "skip")}
    # 4·4 weights at 8×8 positions and at 4×4, nine times as many where the kernel is 3×3
    assert table.flops(of["narrow"]) - table.flops(of["skip"]) == 16 * (64 + 16)
    assert table.flops(of["wide"]) - table.flops(of["skip"]) == 9 * 16 * (64 + 16)
    assert table.params(of["skip"]) == 3 * 4 + 4 * 2
    assert table.params(of["narrow"]) - table.params(of["skip"]) == 16 + 4
    assert table.params(of["wide"]) - table.params(of["skip"]) == 9 * 16 + 4


class Shared(nn.Module):
    """Two decisions that share their 5×5 convolution, each with a 3×3 one of its own."""

    def __init__(self) -> None:
        super().__init__()
        wide = nn.Conv2d(4, 4, 5, padding=2, bias=False)
        own = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.stem = nn.Conv2d(3, 4, 1, bias=False)
        self.layers = nn.ModuleList(
            Choice(f"layer{n}", {"k3": narrow, "k5": wide}) for n, narrow in enumerate(own)
        )
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("bn", ["fair", "conv-only"])
def test_an_op_that_two_decisions_choose_costs_its_flops_twice_and_its_weights_once(
    bn: str,
) -> None:
    """Fixed are 12 weights before and 8 behind; a 3×3 has 9 · 16 = 144, the 5×5 has 400."""
    space = SimpleNamespace(
        name="shared", example=lambda n=1: torch.zeros(n, 3, 8, 8), builds_subnets=False
    )
    network = Shared()
    if bn == "fair":
        make_fair(network, space.example(2))
    table = cost_table(Supernet(network, cast(Any, None), cast(Any, space), 2, bn))
    for options, ops, weights in (
        (("k3", "k3"), 144 + 144, 144 + 144),
        (("k3", "k5"), 144 + 400, 144 + 400),
        (("k5", "k3"), 400 + 144, 400 + 144),
        (("k5", "k5"), 400 + 400, 400),
    ):
        architecture = Architecture.of(dict(zip(("layer0", "layer1"), options, strict=True)))
        assert table.params(architecture) == 12 + 8 + weights, options
        assert table.flops(architecture) == 64 * (12 + ops) + 8, options
        bare = materialize(network, architecture, fair=False)
        assert sum(p.numel() for p in bare.parameters()) == table.params(architecture)
