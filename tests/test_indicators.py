"""What every indicator does, for every one in the registry; candidates and composites."""

from __future__ import annotations

import random
from dataclasses import replace
from math import isfinite, log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fbn_deploy import indicators as room
from fbn_deploy.data import ImageData, load_data, sample_indices
from fbn_deploy.errors import FBNError
from fbn_deploy.indicators import (
    COMPOSITES,
    Candidate,
    Indicator,
    Need,
    Scoring,
    Setting,
    composite_rank,
    indicators,
    indicators_of,
    probe_batches,
    score,
)
from fbn_deploy.indicators._composite import COMBINED, Composite
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import select_path
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.frozen import train_only_batchnorm
from fbn_deploy.supernet.supernet import Supernet, build_supernet, materialize

OWN = '''
"""A space as a user writes it: an inner body, ops without BatchNorms, dropout, work in place."""

from torch import nn

from fbn_deploy.supernet.choice import Choice


class Network(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        ops = lambda: {
            "conv": nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)),
            "wide": nn.Sequential(nn.Conv2d(4, 8, 1), nn.Hardswish(), nn.Conv2d(8, 4, 1)),
            "skip": nn.Identity(),
        }
        self.body = nn.ModuleList([Choice(f"layer{n}", ops()) for n in range(2)])
        self.body.insert(1, nn.Conv2d(4, 4, 3, 2, 1))
        self.head = nn.Sequential(
            nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.body:
            x = block(x)
        return self.head(x)


def network(num_classes, resolution=32):
    return Network(num_classes)
'''
SPACES: dict[str, dict[str, Any]] = {
    "nasbench101": {"channels": 6},
    "nasbench201": {"channels": 4, "cells": 1},
    "nasbench_macro": {"width": 0.1},
    "mobilenet": {"width": 0.1, "depth": 2, "squeeze_excite": True},
    "darts": {"channels": 4, "cells": 3},
    "own": {},
}
CHOSEN = {  # an option for all decisions, or an architecture in the space's notation
    "nasbench101": "1001010101 conv3x3-bn-relu,maxpool3x3,conv1x1-bn-relu",
    "nasbench201": "nor_conv_3x3",
    "nasbench_macro": "12111211",
    "mobilenet": "mb3_k3",
    "darts": "Genotype(normal={0}, normal_concat=range(2, 6), "
    "reduce={0}, reduce_concat=range(2, 6))".format([("sep_conv_3x3", 0), ("dil_conv_5x5", 1)] * 4),
    "own": "conv",
}
DATA = load_data(None, resolution=16, seed=0)
PROBE = probe_batches(DATA, batches=2, batch_size=16, seed=0)


@pytest.fixture(scope="module", params=SPACES)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Supernet, Architecture]:
    """A supernet whose BatchNorms were trained, all else frozen, and a candidate without skips."""
    name = request.param
    spec = name
    if name == "own":
        path: Path = tmp_path_factory.mktemp("space") / "own.py"
        path.write_text(OWN)
        spec = str(path)
    supernet = build_supernet(definition(spec, 16, SPACES[name]), len(DATA.classes), seed=3)
    network = train_only_batchnorm(supernet.network)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1, 0.1)
                module.bias.normal_(0, 0.1)
    network.requires_grad_(False)
    decisions = supernet.space.decisions
    if all(CHOSEN[name] in decision.options for decision in decisions):
        return supernet, supernet.space.architecture({d.name: CHOSEN[name] for d in decisions})
    return supernet, supernet.space.parse(CHOSEN[name])


every_indicator = pytest.mark.parametrize("each", indicators(), ids=lambda each: each.name)


@every_indicator
def test_every_indicator_keeps_the_contract(
    each: Indicator, trained: tuple[Supernet, Architecture]
) -> None:
    """Finite, the same every time, and nothing borrowed is kept."""
    supernet, architecture = trained
    network = supernet.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    images = [batch.clone() for batch in PROBE.images]
    scoring = Scoring(supernet, PROBE, [each.name])
    state = torch.get_rng_state()
    first = scoring(architecture)[each.name]
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)  # what the caller draws is no matter
    with torch.inference_mode():
        assert scoring(architecture)[each.name] == first
    assert isinstance(first, float)
    assert isfinite(first)
    assert score(supernet, architecture, PROBE, [each.name]) == {each.name: first}

    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [module.training for module in network.modules()]
    assert wanted == [parameter.requires_grad for parameter in network.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(a, b) for a, b in zip(images, PROBE.images, strict=True))


@every_indicator
def test_every_indicator_is_named_after_its_file_and_describes_itself(each: Indicator) -> None:
    assert (Path(room.__path__[0]) / f"{each.name.replace('-', '_')}.py").is_file()
    assert each.description
    assert "\n" not in each.description


def test_values_do_not_depend_on_which_indicators_are_asked_for(
    trained: tuple[Supernet, Architecture],
) -> None:
    supernet, architecture = trained
    names = [each.name for each in indicators()]
    together = score(supernet, architecture, PROBE, names)
    assert list(together) == names
    backwards = score(supernet, architecture, PROBE, names[::-1])
    assert together == backwards


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_composite_ranks_every_candidate(
    name: str, trained: tuple[Supernet, Architecture]
) -> None:
    supernet, _ = trained
    rng = random.Random(0)
    scoring = Scoring(supernet, PROBE, indicators_of(name))
    scores = [scoring(supernet.space.sample(rng)) for _ in range(3)]
    ranks = composite_rank(name, scores)
    assert len(ranks) == 3
    assert all(isfinite(rank) for rank in ranks)


def test_the_bare_subnet_is_the_initialisation_of_the_frozen_weights(
    trained: tuple[Supernet, Architecture],
) -> None:
    supernet, architecture = trained
    if supernet.definition.builds_subnets:
        pytest.skip("a network that the space builds has weights of its own")
    subnet = Candidate(Setting(supernet, PROBE), architecture).subnet()
    frozen = materialize(supernet.network, architecture, fair=False).state_dict()
    norms = [m for m in subnet.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = {id(p) for bn in norms for p in bn.parameters()}
    weights = {n: p for n, p in subnet.named_parameters() if id(p) not in affine}
    assert weights
    assert all(torch.equal(p, frozen[n]) for n, p in weights.items())
    assert all((bn.weight == 1).all() and (bn.bias == 0).all() for bn in norms)
    assert all(p.requires_grad for p in subnet.parameters())
    assert all(module.training for module in subnet.modules())


def test_a_subnet_is_new_each_time_and_may_be_altered(
    trained: tuple[Supernet, Architecture],
) -> None:
    supernet, architecture = trained
    candidate = Candidate(Setting(supernet, PROBE), architecture)
    with torch.no_grad():
        for parameter in candidate.subnet().parameters():
            parameter.zero_()
    assert any(parameter.any() for parameter in candidate.subnet().parameters())


def test_training_all_weights_does_not_reach_the_baselines() -> None:
    one, other = (
        build_supernet(definition("nasbench201", 16, SPACES["nasbench201"]), 10) for _ in range(2)
    )
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.mul_(2)
    architecture = one.space.sample(random.Random(0))
    names = ["synflow", "snip", "params"]
    assert score(one, architecture, PROBE, names) == score(other, architecture, PROBE, names)


def test_counts_are_those_of_the_cost_table(trained: tuple[Supernet, Architecture]) -> None:
    supernet, architecture = trained
    candidate = Candidate(Setting(supernet, PROBE), architecture)
    table = cost_table(supernet)
    assert candidate.flops == table.flops(architecture)
    assert candidate.params == table.params(architecture)


def test_one_set_of_forward_passes_serves_the_indicators_of_the_supernet() -> None:
    supernet = build_supernet(definition("nasbench201", 16, SPACES["nasbench201"]), 10)
    passes = []
    supernet.network.register_forward_hook(lambda module, inputs, output: passes.append(1))
    architecture = supernet.space.sample(random.Random(0))
    score(supernet, architecture, PROBE, indicators_of("cpi"))
    assert len(passes) == 1, "The default composite reads the first batch alone."
    passes.clear()
    score(supernet, architecture, PROBE, [*indicators_of("cpi"), *indicators_of("cpi-paper")])
    assert len(passes) == len(PROBE.images)
    select_path(supernet.network, architecture)


def test_codes_are_computed_only_for_those_that_need_them() -> None:
    supernet = build_supernet(definition("nasbench201", 16, SPACES["nasbench201"]), 10)
    architecture = supernet.space.sample(random.Random(0))
    without = Candidate(Setting(supernet, PROBE, frozenset()), architecture)
    assert without.observation.code_kernel is None
    assert Candidate(Setting(supernet, PROBE), architecture).observation.code_kernel is not None


def test_gradients_are_computed_only_for_those_that_need_them() -> None:
    supernet = build_supernet(definition("nasbench201", 16, SPACES["nasbench201"]), 10)
    architecture = supernet.space.parse(
        "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|none~0|none~1|avg_pool_3x3~2|"
    )
    without = Candidate(Setting(supernet, PROBE, frozenset({Need.SPECTRA})), architecture)
    assert not any(norm.gradients is not None for norm in without.observation.norms)
    found = Candidate(Setting(supernet, PROBE), architecture).observation
    for norm in found.norms:  # behind a zero op nothing varies
        assert (norm.gradients is not None) == norm.is_alive == (norm.spectrum is not None)
    assert not found.logits.requires_grad
    assert all(parameter.grad is None for parameter in supernet.network.parameters())


def test_the_log_composite_sinks_what_is_poor_by_one_indicator() -> None:
    # Three candidates, by (flops, params): (1st, 3rd), (2nd, 2nd), (3rd, 1st): all of mean rank 2.
    scores = [
        {"flops": 3.0, "params": 1.0},
        {"flops": 2.0, "params": 2.0},
        {"flops": 1.0, "params": 3.0},
    ]
    COMPOSITES["test-log"] = Composite(("flops", "params"), "log")
    try:
        ranks = composite_rank("test-log", scores)
    finally:
        del COMPOSITES["test-log"]
    # −log(3/3) − log(1/3) = 1.0986 and −2 log(2/3) = 0.8109: the balanced one is best
    assert ranks == pytest.approx([log(3), -2 * log(2 / 3), log(3)])


def test_a_composite_may_order_its_best_fifth_by_another_indicator_as_well() -> None:
    # Of 15 candidates the first three by flops are ordered anew: flops ranks 1, 2, 3 and params
    # ranks 3, 1, 2 have the means 2, 1.5, 2.5. The others keep their places, whatever their params.
    scores = [{"flops": 15.0 - n, "params": 100.0 + n} for n in range(15)]
    for number, params in enumerate((1.0, 3.0, 2.0)):
        scores[number]["params"] = params
    COMPOSITES["test-then"] = Composite(("flops",), "mean", among_best="params")
    try:
        ranks = composite_rank("test-then", scores)
        assert indicators_of("test-then") == ("flops", "params")
        few = composite_rank("test-then", scores[:4])
    finally:
        del COMPOSITES["test-then"]
    assert ranks == [2.0, 1.0, 3.0, *range(4, 16)]
    assert few == [1.0, 2.0, 3.0, 4.0], "A fifth of four is one candidate."


@pytest.mark.parametrize("best", [3, 400])
def test_equals_among_the_best_are_told_apart_by_the_first_look_and_no_others(best: int) -> None:
    second = random.Random(1).sample(range(1, best + 1), best)  # ranks; those by flops are 1, 2, …
    scores = [{"flops": -float(k), "params": -float(r)} for k, r in enumerate(second)]
    scores += [{"flops": -float(k), "params": 0.0} for k in range(best, 5 * best)]
    COMPOSITES["test-then"] = Composite(("flops",), "log", among_best="params")
    try:
        ranks = composite_rank("test-then", scores)[:best]
        alike = composite_rank("test-then", [{"flops": 1.0, "params": 2.0}] * 9)
    finally:
        del COMPOSITES["test-then"]
    # by the product (n − k) · (n + 1 − r), the larger the better; of equals the first one
    order = sorted(range(best), key=lambda k: (-(best - k) * (best + 1 - second[k]), k))
    assert [ranks[k] for k in order] == [*range(1, best + 1)]
    assert set(alike) == {5.0}


def test_gamma_counts_a_dead_end_but_nothing_behind_a_zero_op() -> None:
    supernet = build_supernet(definition("nasbench201", 16, SPACES["nasbench201"]), 10)
    empty = "|{}~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"
    values = [
        score(supernet, supernet.space.parse(empty.format(op)), PROBE, ["gamma"])["gamma"]
        for op in ("none", "nor_conv_3x3")
    ]
    # γ = 1 at first: one convolution in each of three cells, and one more in a dead end
    assert values == [3.0, 6.0]


def with_validation(count: int) -> ImageData:
    """The digits with the first ``count`` of their validation images."""
    return replace(DATA, validation=DATA.validation.only(torch.arange(count)))


@pytest.mark.parametrize("count", [4, 9, 33, 64])
def test_batches_of_a_small_split_are_parts_of_it_that_differ(count: int) -> None:
    probe = probe_batches(with_validation(count), batches=4, batch_size=64, seed=0)
    assert probe.anchors >= 1
    held = [{image.numpy().tobytes() for image in batch} for batch in probe.images]
    assert {len(each) for each in held} == {3 * count // 4}
    anchors = [batch[: probe.anchors] for batch in probe.images]
    assert all(torch.equal(anchors[0], each) for each in anchors)
    assert len({frozenset(each) for each in held}) > 1


def test_batches_of_a_split_that_is_larger_are_what_they_were() -> None:
    data = with_validation(65)
    probe = probe_batches(data, batches=2, batch_size=64, seed=7)
    fixed = sample_indices(data.validation.labels, 16, 7)
    rest = torch.tensor([k for k in range(65) if k not in fixed.tolist()])
    for t in range(2):
        picked = rest[sample_indices(data.validation.labels[rest], 48, 8 + t)]
        expected = data.normalize(data.validation.batch(torch.cat([fixed, picked])))
        assert torch.equal(probe.images[t], expected)
    whole = probe_batches(with_validation(9), batches=1, batch_size=64, seed=0)
    assert len(whole.images[0]) == 9, "A single batch need not differ from others."


def test_too_few_validation_images_for_batches_that_differ_are_refused() -> None:
    with pytest.raises(FBNError, match=r"at least 4 validation images; digits has 3"):
        probe_batches(with_validation(3), batches=2, batch_size=64, seed=0)


def test_the_composite_is_the_mean_of_ranks_and_ties_share() -> None:
    scores = [{"flops": 3.0, "ntk": 5.0}, {"flops": 1.0, "ntk": 1.0}, {"flops": 3.0, "ntk": 2.0}]
    COMPOSITES["test-mean"] = Composite(("flops", "ntk"))
    try:
        # flops, the higher the better: 1.5, 3, 1.5; ntk, the lower the better: 3, 1, 2
        assert composite_rank("test-mean", scores) == [2.25, 2.0, 1.75]
    finally:
        del COMPOSITES["test-mean"]


def test_a_single_indicator_ranks_by_itself_and_what_is_not_finite_ranks_last() -> None:
    scores = [{"ntk": float("nan")}, {"ntk": 7.0}, {"ntk": float("-inf")}, {"ntk": 5.0}]
    assert composite_rank("ntk", scores) == [3.5, 2.0, 3.5, 1.0]


def test_composites_are_made_of_indicators_and_clash_with_none() -> None:
    names = {each.name for each in indicators()}
    assert not names & set(COMPOSITES)
    for name, each in COMPOSITES.items():
        assert set(each.parts) <= names, name
        assert each.combined in COMBINED


def test_an_unknown_indicator_lists_composites_as_well() -> None:
    with pytest.raises(FBNError, match="Did you mean 'az-nas'"):
        indicators_of("az-nass")
