"""NAS-Bench-101: published parameter counts and keys, cells by hand, and the supernet."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import candidate_graphs
from fbn_deploy.retrain.network import subnet
from fbn_deploy.space import Architecture, SearchSpace
from fbn_deploy.supernet.aging import as_if_trained
from fbn_deploy.supernet.choice import Choice, each_choice_input, select_path
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.fairbn import last_batchnorm
from fbn_deploy.supernet.frozen import train_only_batchnorm
from fbn_deploy.supernet.recalibration import fresh_statistics
from fbn_deploy.supernet.supernet import Supernet, build_supernet, materialize
from fbn_deploy.targets import ready_target
from searchspaces.nasbench101 import EDGES, vertex_widths

TINY: dict[str, Any] = {"channels": 6}
C3, C1, POOL = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"

# What the benchmark says of its cells: rows of the adjacency matrix, ops, trainable parameters.
PUBLISHED = {
    # The example of the official README, and the same cell as the data set stores it; both as
    # printed in github.com/gary9987/tensorflow-get-started, gcn/NAS_BENCH_101.md.
    "inception": (
        "0111010 0000001 0000001 0000100 0000001 0000001 0000000",
        f"{C1} {C3} {C3} {C3} {POOL}",
        2_694_282,
    ),
    "inception as stored": (
        "0111100 0000001 0000001 0000001 0000010 0000001 0000000",
        f"{C3} {C1} {POOL} {C3} {C3}",
        2_694_282,
    ),
    # The first record of nasbench_only108.tfrecord, as printed by many of its readers; its key is
    # FIRST_KEY.
    "first record": (
        "0100110 0010000 0001001 0000010 0000010 0000001 0000000",
        f"{C3} {POOL} {C3} {C3} {C1}",
        8_555_530,
    ),
    # The largest count in the data set, by which readers scale it (MAX_TP = 49979274): five 3×3
    # convolutions in a row and all 9 edges used.
    "largest": (
        "0111100 0010000 0001000 0000100 0000010 0000001 0000000",
        f"{C3} {C3} {C3} {C3} {C3}",
        49_979_274,
    ),
}
FIRST_KEY = "00005c142e6f48ac74fdcf73e3439874"


def upper(rows: str) -> str:
    return "".join(row[number + 1 :] for number, row in enumerate(rows.split()))


def cell(name: str) -> str:
    rows, ops, _ = PUBLISHED[name]
    return f"{upper(rows)} {ops}"


@pytest.fixture(scope="module")
def tiny() -> Supernet:
    return build_supernet(definition("nasbench101", 8, TINY), 3)


SPACE: SearchSpace = build_supernet(definition("nasbench101", 8, TINY), 3).space
SAMPLES = [SPACE.sample(random.Random(seed)) for seed in range(6)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_benchmarks(name: str) -> None:
    network = definition("nasbench101").subnet(SPACE.parse(cell(name)), 10, 0)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name][2]


def test_the_smallest_cell_adds_up_by_hand() -> None:
    """Input → output: 9 projections between the stem and the classifier."""
    network = definition("nasbench101").subnet(SPACE.parse("1"), 10, 0)
    stem, classifier = 27 * 128 + 256, 512 * 10 + 10
    sizes = [(128, 128)] * 3 + [(128, 256)] + [(256, 256)] * 2 + [(256, 512)] + [(512, 512)] * 2
    projections = sum(i * o + 2 * o for i, o in sizes)
    assert sum(p.numel() for p in network.parameters()) == stem + projections + classifier


def test_folded_costs_have_one_bias_where_the_network_has_a_batchnorm(tiny: Supernet) -> None:
    architecture = SPACE.parse("1")
    table = cost_table(tiny)
    # a 3×3 stem at 8×8, 1×1 projections at 8×8, 4×4 and 2×2, pooling of 24·2·2, classifier
    stem, projections = 27 * 6, (3 * 36, 72 + 2 * 144, 288 + 2 * 576)
    weights = stem + sum(projections) + 24 * 3
    biases = 6 + 3 * 6 + 3 * 12 + 3 * 24 + 3
    assert table.params(architecture) == weights + biases
    flops = sum(p * area for p, area in zip(projections, (64, 16, 4), strict=True))
    assert table.flops(architecture) == stem * 64 + flops + 24 * 4 + 24 * 3


def test_the_canonical_form_is_the_key_of_the_data_set() -> None:
    assert SPACE.canonical(SPACE.parse(cell("first record"))) == FIRST_KEY


def test_isomorphic_cells_share_a_key() -> None:
    one, other = SPACE.parse(cell("inception")), SPACE.parse(cell("inception as stored"))
    assert one != other
    assert SPACE.canonical(one) == SPACE.canonical(other)
    assert SPACE.canonical(one) != FIRST_KEY


@given(st.sampled_from(SAMPLES), st.permutations([1, 2, 3, 4, 5]))
def test_renumbered_vertices_keep_the_key(architecture: Architecture, order: list[int]) -> None:
    new = dict(zip((0, *order, 6), range(7), strict=True))
    edges = {(new[i], new[j]) for i, j in EDGES if architecture[f"{i}->{j}"] == "on"}
    if all(i < j for i, j in edges):
        choices = {f"{i}->{j}": "on" if (i, j) in edges else "off" for i, j in EDGES}
        choices |= {f"op{new[v]}": architecture[f"op{v}"] for v in range(1, 6)}
        assert SPACE.canonical(SPACE.architecture(choices)) == SPACE.canonical(architecture)


def test_all_small_cells_are_told_apart_as_by_trying_all_permutations() -> None:
    """Cells of two interior vertices: keys agree exactly where some renumbering does."""
    kinds: dict[str, set[Any]] = {}
    for bits in range(64):
        for ops in ((a, b) for a in (C3, C1, POOL) for b in (C3, C1, POOL)):
            architecture = SPACE.parse(f"{bits:06b} {','.join(ops)}")
            if not SPACE.is_valid(architecture):
                continue
            on = {e for e in EDGES if architecture[f"{e[0]}->{e[1]}"] == "on"}
            live = sorted({v for e in on for v in e} - {0, 6})
            forms = []
            for order in permutations(live):
                new = {0: 0, 6: 6} | dict(zip(order, live, strict=True))
                labels = sorted((new[v], architecture[f"op{v}"]) for v in live)
                forms.append((sorted((new[i], new[j]) for i, j in on), labels))
            # a lone vertex is the same cell whether it is called 1 or 2
            rename = {v: k for k, v in enumerate([0, *live, 6])}
            least = min(
                (sorted((rename[i], rename[j]) for i, j in e), [(rename[v], o) for v, o in labels])
                for e, labels in forms
            )
            kinds.setdefault(SPACE.canonical(architecture), set()).add(str(least))
    assert all(len(forms) == 1 for forms in kinds.values())
    assert len({str(forms) for forms in kinds.values()}) == len(kinds)


# Examples of tests/model_builder_test.py in github.com/google-research/nasbench, by the edges.
@pytest.mark.parametrize(
    ("edges", "channels", "widths"),
    [
        ("01 12 26", 16, {1: 16, 2: 16}),
        ("01 02 16 26", 15, {1: 8, 2: 7}),
        ("01 02 03 16 26 36", 8, {1: 3, 2: 3, 3: 2}),
        ("01 12 13 26 36", 9, {1: 5, 2: 5, 3: 4}),
        ("01 03 12 16 23 36", 15, {1: 8, 2: 7, 3: 7}),
        ("06", 5, {}),
    ],
)
def test_widths_are_the_official_ones(edges: str, channels: int, widths: dict[int, int]) -> None:
    pairs = {(int(edge[0]), int(edge[1])) for edge in edges.split()}
    assert vertex_widths(pairs, channels) == widths | {6: channels}


def test_a_table_row_is_read_pruned_or_raw() -> None:
    """A row of the public table: the pruned graph with its ops, and what it was pruned from."""
    pruned = SPACE.parse(f"1100010101 input {C3} {POOL} {C3} output")
    raw = SPACE.parse(f"110000010101100011000 {C3} {POOL} {C3} {C1} {C3}")
    assert SPACE.is_valid(pruned)
    assert SPACE.is_valid(raw)
    assert SPACE.canonical(pruned) == SPACE.canonical(raw)


@given(st.sampled_from(SAMPLES), st.sampled_from(SAMPLES), st.integers(0, 1000))
@settings(max_examples=30)
def test_children_are_valid_and_text_and_parse_are_inverse(
    a: Architecture, b: Architecture, seed: int
) -> None:
    rng = random.Random(seed)
    for child in (a, SPACE.mutate(a, rng, 0.1), SPACE.crossover(a, b, rng)):
        assert SPACE.is_valid(child)
        assert SPACE.parse(SPACE.text(child)) == child


def test_loose_ends_and_too_many_edges_are_invalid() -> None:
    chain = SPACE.parse(cell("largest"))
    assert SPACE.is_valid(chain)  # 9 edges
    assert not SPACE.is_valid(chain.replaced(**{"0->6": "on"}))
    assert not SPACE.is_valid(chain.replaced(**{"5->6": "off"}))
    one = SPACE.parse(f"101 {C1}")
    assert SPACE.is_valid(one)
    assert not SPACE.is_valid(one.replaced(**{"0->3": "on"}))
    with pytest.raises(FBNError, match="no NAS-Bench-101 cell"):
        definition("nasbench101", 8, TINY).subnet(one.replaced(**{"0->3": "on"}), 3, 0)


@pytest.mark.parametrize("wrong", ["", "10", "101", f"102 {C1}", "101 conv5x5", f"1{C1}"])
def test_other_texts_are_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(FBNError, match="such as"):
        SPACE.parse(wrong)


def test_an_exact_cell_computes_what_its_definition_says() -> None:
    """Two vertices share 5 channels as 3 + 2; the input is projected and added to the output."""
    space = definition("nasbench101", 8, {"channels": 5})
    architecture = SPACE.parse(f"111011 {C1},{POOL}")  # all but 1→2
    network = space.subnet(architecture, 3, 0).eval()
    module = dict(network.named_children())["stack0_cell0"]
    assert module.widths == {1: 3, 2: 2, 6: 5}
    x = torch.randn(2, 5, 8, 8)
    projected = {j: module.projections[f"0->{j}"](x) for j in (1, 2, 6)}
    pooled = nn.functional.max_pool2d(projected[2], 3, 1, 1)
    expected = torch.cat([module.ops["op1"](projected[1]), pooled], 1) + projected[6]
    assert torch.equal(module(x), expected)


def test_a_wide_vertex_is_cut_for_a_narrow_reader() -> None:
    space = definition("nasbench101", 8, {"channels": 5})
    architecture = SPACE.parse(f"100111 {C1},{C1}")  # 0→1, 1→2, 1→3, 2→3
    module = dict(space.subnet(architecture, 3, 0).eval().named_children())["stack0_cell0"]
    assert module.widths == {1: 3, 2: 2, 6: 5}
    x = torch.randn(2, 5, 8, 8)
    first = module.ops["op1"](module.projections["0->1"](x))
    expected = torch.cat([first, module.ops["op2"](first[:, :2])], 1)
    assert torch.equal(module(x), expected)


def test_every_option_of_every_choice_gives_one_shape_and_ends_in_a_batchnorm(
    tiny: Supernet,
) -> None:
    select_path(tiny.network, {d.name: d.options[0] for d in tiny.space.decisions})
    with each_choice_input(tiny.network) as inputs:
        tiny.network.eval()(torch.zeros(2, 3, 8, 8))
    blocks = {path: m for path, m in tiny.network.named_modules() if isinstance(m, Choice)}
    assert len(blocks) == 9 * (21 + 5)
    for path, choice in blocks.items():
        assert len({op(*inputs[path][0]).shape for op in choice.candidates.values()}) == 1
        assert all(last_batchnorm(op) for op in choice.candidates.values())


def test_a_materialized_path_computes_what_the_supernet_does(tiny: Supernet) -> None:
    x = torch.randn(2, 3, 8, 8)
    for architecture in SAMPLES:
        select_path(tiny.network.eval(), architecture)
        assert torch.equal(materialize(tiny.network, architecture)(x), tiny.network(x))


def test_a_vertex_off_the_path_shows_no_variance(tiny: Supernet) -> None:
    """Indicators leave a BatchNorm without variance out; here all of vertex 2's."""
    one = tiny.space.parse(f"101 {C1}")
    select_path(tiny.network, one)
    with torch.no_grad(), fresh_statistics(tiny.network):
        tiny.network(torch.randn(4, 3, 8, 8))
    cells = [m for name, m in tiny.network.named_children() if "cell" in name]
    for module in cells:
        variances = {j: last_batchnorm(module.ops[f"op{j}"].op).running_var for j in (1, 2)}
        assert (variances[1] > 0).any()
        assert (variances[2] == 0).all()


def test_the_fair_supernet_trains_a_step() -> None:
    network = build_supernet(definition("nasbench101", 8, TINY), 3).network.train()
    train_only_batchnorm(network)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.1)
    before = [p.detach().clone() for p in parameters]
    rng = random.Random(0)
    for _ in range(3):  # paths as the samplers draw them, valid or not
        select_path(network, {d.name: rng.choice(d.options) for d in SPACE.decisions})
        outputs = network(torch.randn(4, 3, 8, 8))
        nn.functional.cross_entropy(outputs, torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    assert all(torch.isfinite(p).all() for p in parameters)


def test_what_is_measured_and_trained_is_the_exact_network(tiny: Supernet) -> None:
    architecture = SAMPLES[0]
    trained = subnet(tiny.definition, architecture, 3, fair_bn=True, seed=0).eval()
    exact = tiny.definition.subnet(architecture, 3, 0).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(trained(x), exact(x))
    exact = as_if_trained(exact)
    folded, report = fold_affine(candidate_graphs(tiny, 1)(architecture))
    assert report.batchnorm_after == 0
    content = ir.to_proto(folded).SerializeToString()
    with ready_target("onnxruntime-cpu").open(content, batch=2, threads=1) as session:
        answer = session.run({"images": x.numpy()})["logits"]
    np.testing.assert_allclose(answer, exact(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_too_few_channels_are_refused() -> None:
    with pytest.raises(FBNError, match="at least 5 channels"):
        build_supernet(definition("nasbench101", 8, {"channels": 4}), 3)
