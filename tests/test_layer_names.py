"""Layers bear the names of the network's own nodes, whatever a runtime makes of them."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from test_targets import READY, small_network

from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import candidate_graphs
from fbn_deploy.export.precision import typed_fp16
from fbn_deploy.latency.naming import named
from fbn_deploy.latency.profile import Layer, NetworkProfile, named_layers, profile_network
from fbn_deploy.latency.table import profile_table
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet
from fbn_deploy.targets import LayerTime, NoLayerTimes, Target, form_for, ready_target
from fbn_deploy.targets._onnxruntime import gpu_layers_from_events, layers_from_events

# Wide enough for ONNX Runtime's NCHWc kernels; the cell has pools, convolutions and a skip.
SPACES: dict[str, tuple[dict[str, Any], int]] = {
    "mobilenet": ({"width": 0.5, "depth": 1}, 16),
    "nasbench201": ({"channels": 16, "cells": 1}, 16),
}
HEAVY = ("Conv", "Gemm")
CONVERSIONS = {
    *("Reorder", "ReorderInput", "ReorderOutput", "Transpose"),
    *("Cast", "QuantizeLinear", "DequantizeLinear"),
}
ON_CPU = [
    pytest.param(target, precision, id=f"{target.name}-{precision}")
    for target in READY
    if target.name in ("onnxruntime-cpu", "openvino-cpu")
    for precision in target.precisions
]


@pytest.fixture(scope="module", params=sorted(SPACES))
def exported(request: pytest.FixtureRequest) -> ir.Model:
    options, resolution = SPACES[request.param]
    supernet = build_supernet(definition(request.param, resolution, options), 10)
    return candidate_graphs(supernet, batch=1)(supernet.space.sample(random.Random(3)))


def layers_of(
    model: bytes | Path, proto: onnx.ModelProto, target: Target, precision: str
) -> tuple[Layer, ...]:
    with target.open(model, batch=1, threads=1, precision=precision, profile=True) as session:
        return named_layers(session.layers(3), proto)


def own(layers: tuple[Layer, ...], *ops: str) -> Counter[str]:
    return Counter(layer.name for layer in layers if layer.op in ops and not layer.added)


@pytest.mark.parametrize("nameless", [False, True], ids=["named", "nameless"])
@pytest.mark.parametrize(("target", "precision"), ON_CPU)
def test_every_convolution_and_gemm_is_one_layer_and_what_was_added_only_converts(
    exported: ir.Model, target: Target, precision: str, nameless: bool
) -> None:
    form = form_for(precision, [target.name])
    folded, _ = fold_affine(
        exported, as_convolution=form.as_convolution, gauge_limit=form.gauge_limit
    )
    expected = Counter(node.name for node in folded.graph if node.op_type in HEAVY)
    proto = ir.to_proto(form.of(folded))
    if nameless:
        expected = Counter(n.output[0] for n in proto.graph.node if n.op_type in HEAVY)
        for node in proto.graph.node:
            node.name = ""
    layers = layers_of(*named(proto.SerializeToString(), proto), target, precision)
    assert own(layers, *HEAVY) == expected
    assert max(Counter(layer.name for layer in layers).values()) == 1
    assert {layer.op for layer in layers if layer.added} <= CONVERSIONS


def test_a_relu_that_onnxruntime_spells_out_as_max_is_the_relu(exported: ir.Model) -> None:
    """In fp16 it has no Relu of opset 18, and takes the function by which ONNX defines it."""
    folded, _ = fold_affine(exported)
    folded.graph.opset_imports[""] = 18
    proto = ir.to_proto(typed_fp16(folded))
    target = ready_target("onnxruntime-cpu")
    layers = layers_of(proto.SerializeToString(), proto, target, "fp16")
    assert own(layers, "Relu") == Counter(n.name for n in proto.graph.node if n.op_type == "Relu")


@pytest.mark.parametrize(
    "target", [t for t in READY if t.name != "onnxruntime-cuda"], ids=lambda target: target.name
)
def test_a_nameless_file_with_weights_beside_it_is_profiled_by_its_values(
    target: Target, tmp_path: Path
) -> None:
    model = onnx.load_from_string(small_network(channels=256))
    for node in model.graph.node:
        node.name = ""
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    for _ in range(2):  # the second may come from a cache
        layers = profile_network(tmp_path / "m.onnx", target, protocol="quick").layers
        names = {layer.name for layer in layers if not layer.added}
        assert "c" in names
        assert names <= {"c", "r", "p", "y"}


def test_a_name_that_another_node_bears_is_given_to_none() -> None:
    model = onnx.load_from_string(small_network())
    model.graph.node[0].name, model.graph.node[1].name = "", "c"
    _, proto = named(model.SerializeToString(), model)
    assert [node.name for node in proto.graph.node[:2]] == ["c_", "c"]


def residual() -> onnx.ModelProto:
    """x → Conv a and Conv b; a + b → Relu → Cast."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv_a"),
        helper.make_node("Conv", ["x", "w"], ["b"], name="conv_b"),
        helper.make_node("Add", ["a", "b"], ["s"], name="add"),
        helper.make_node("Relu", ["s"], ["r"], name="relu"),
        helper.make_node("Cast", ["r"], ["y"], name="cast", to=1),
        helper.make_node("Transpose", ["y"], ["t"], name="turn"),
    ]
    return helper.make_model(helper.make_graph(nodes, "residual", [], []))


def names(*times: LayerTime) -> list[str | None]:
    layers = named_layers(list(times), residual())
    return [None if layer.added else layer.name for layer in layers]


def test_of_two_convolutions_before_an_addition_it_is_the_one_without_a_layer() -> None:
    for other, left in (("a", "conv_b"), ("conv_b", "conv_a")):
        assert names(LayerTime("r", "Conv", 1.0), LayerTime(other, "Conv", 1.0))[0] == left
    assert names(LayerTime("r", "Conv", 1.0)) == ["relu"], "Nothing says which of them it is."


def test_a_layer_named_after_a_cast_is_what_it_computes() -> None:
    other = LayerTime("a", "Conv", 1.0)
    fused = LayerTime("y", "Convolution", 1.0, computes=("Conv",))
    assert names(other, fused)[1] == "conv_b"
    assert names(LayerTime("r", "Relu", 1.0), LayerTime("y", "Subgraph", 1.0)) == ["relu", "cast"]
    assert names(LayerTime("y", "Subgraph", 1.0, nodes=("own", "add", "cast"))) == ["add"]


def kernel(name: str, op: str, at_us: int, took_us: int) -> dict[str, Any]:
    args = {"op_name": op, "provider": "CUDAExecutionProvider"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": at_us, "dur": took_us, "args": args}


def test_what_onnxruntime_adds_under_a_like_name_stays_added() -> None:
    events = [
        kernel("turn", "Transpose", 0, 1),
        kernel("turn_token_3", "Transpose", 1, 1),  # a second one beside the node
        kernel("conv_a_token_4", "Transpose", 2, 1),  # another op than the node's
        kernel("InsertedPrecisionFreeCast_y", "Cast", 3, 1),  # to another type than the node's
        kernel("conv_a_token_5", "QLinearConv", 4, 1),
        kernel("InsertedPrecisionFreeCast_b_nchwc", "Conv", 5, 1),
    ]
    found = names(*layers_from_events(events, warmup=0))
    assert found == ["turn", None, None, None, "conv_a", "conv_b"]


def launched(parent: str, kernel_name: str, took_us: int) -> dict[str, Any]:
    args = {"stream": "7", "op_name": "", "parent_name": f"{parent}_kernel_time"}
    return {"cat": "Kernel", "name": kernel_name, "ts": 900, "dur": took_us, "args": args}


def test_layers_of_a_gpu_take_as_long_as_their_kernels_not_as_their_launches() -> None:
    """A run of 1 µs launches: convolution a in two kernels of 30 and 10 µs, a view in none."""
    run = [
        kernel("conv_a", "Conv", 10, 1),
        launched("conv_a", "implicit_gemm", 30),
        launched("conv_a", "bias", 10),
        kernel("turn", "Transpose", 12, 1),
        {"cat": "Kernel", "name": "MemcpyHostToDevice", "ts": 5, "dur": 99, "args": {}},
    ]
    (layer,) = gpu_layers_from_events(run * 3, warmup=1)
    assert (layer.name, layer.op, layer.latency_ms) == ("conv_a", "Conv", pytest.approx(0.04))


def test_without_kernels_of_the_gpu_the_whole_is_reported_and_why_no_layer_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(NoLayerTimes, match="gives no times of layers on the GPU"):
        gpu_layers_from_events([kernel("conv_a", "Conv", 10, 1)] * 9, warmup=5)

    def times_none(*_: object) -> list[LayerTime]:
        return gpu_layers_from_events([kernel("conv_a", "Conv", 10, 1)], warmup=0)

    target = ready_target("onnxruntime-cpu")
    session = type(target.open(small_network(), batch=1, threads=1))
    monkeypatch.setattr(session, "layers", times_none)
    profile = profile_network(small_network(), target, protocol="quick")
    assert profile.record.value_ms > 0
    assert profile.layers == ()
    profile.save(tmp_path / "profile.json")
    assert NetworkProfile.load(tmp_path / "profile.json") == profile
    assert profile.without_layers in profile_table(profile).renderables  # type: ignore[attr-defined]
