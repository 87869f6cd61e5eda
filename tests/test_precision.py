"""Graphs in 8 bits: where the Q/DQ pairs stand, and that the numbers are near."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.export.calibration import calibrated
from fbn_deploy.export.estimators import estimator
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.precision import (
    activations,
    quantizable,
    quantized_int8,
    typed_bf16,
    typed_fp16,
)
from fbn_deploy.export.precision import weights as int8_weights
from fbn_deploy.export.precision.form import Form
from fbn_deploy.export.precision.sensitivity import sensitivity
from fbn_deploy.export.ranges import Ranges
from fbn_deploy.progress import Silent
from fbn_deploy.targets import ready_target
from fbn_deploy.targets._cpu import int8_weight_levels


class Residual(nn.Module):
    """Two convolutions with Relus beside an identity, then MaxPool: (N, 8, R, R)."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.two(torch.relu(self.one(x))))


def network() -> ir.Model:
    return _exported().clone()


@functools.cache
def _exported() -> ir.Model:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Residual()]
    layers += [nn.MaxPool2d(2), nn.Conv2d(8, 16, 1), nn.ReLU6()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return fold_affine(onnx_from_module(nn.Sequential(*layers), 16))[0]


def images(count: int = 32, resolution: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, 3, resolution, resolution), dtype=np.float32)


def ranges_of(model: ir.Model, x: np.ndarray, keep: Sequence[str] = ()) -> Ranges:
    names = activations(model, keep)
    methods = [estimator("minmax")]
    return calibrated(model, names, [x], methods, count=len(x), data_hash="", reporter=Silent())[
        "minmax"
    ]


def run(
    model: ir.Model, x: np.ndarray, target: str = "onnxruntime-cpu", precision: str = "fp32"
) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString()
    with ready_target(target).open(
        content, batch=len(x), threads=1, precision=precision
    ) as session:
        return session.run({"images": x})["logits"]


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def readers(model: ir.Model, op: str) -> Counter[str]:
    """Ops that read what nodes of kind ``op`` give."""
    return Counter(
        use.node.op_type
        for node in model.graph
        if node.op_type == op
        for use in node.outputs[0].uses()
    )


def test_an_average_pool_stays_fp32_where_activations_are_uint8() -> None:
    """Processors run its integer kernel slowly; TensorRT wants the pair. A part of a network that
    is nothing else stays as it is."""
    layers = [nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 1), nn.Conv2d(8, 10, 3), nn.Flatten()]
    model = fold_affine(onnx_from_module(nn.Sequential(*layers), 16))[0]
    x = images(8)
    ranges = ranges_of(model, x)
    signed = quantized_int8(model, ranges)
    assert readers(signed, "DequantizeLinear")["AveragePool"] == 1
    unsigned = quantized_int8(model, ranges, unsigned=True)
    assert readers(unsigned, "DequantizeLinear")["AveragePool"] == 0
    assert readers(unsigned, "QuantizeLinear")["DequantizeLinear"] == 2
    assert error(run(unsigned, x, precision="int8"), run(model, x)) < 0.05
    errors = sensitivity(model, ranges, [x], unsigned=True, reporter=Silent())
    assert len(errors) == 2
    alone = fold_affine(onnx_from_module(nn.Sequential(layers[1], layers[3]), 16))[0]
    assert Form("int8", unsigned=True).of(alone) is alone


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_int8_answers_nearly_like_fp32(target: str, unsigned: bool) -> None:
    if target == "openvino-cpu":
        pytest.importorskip("openvino", reason="openvino is not installed")
    model, x = network(), images()
    levels = int8_weight_levels()
    result = quantized_int8(model, ranges_of(model, x), unsigned=unsigned, weight_levels=levels)
    found = error(run(result, x, target, "int8"), run(model, x, target))
    assert 1e-4 < found < 0.05, "Rounded to 8 bits, and no further off."


def test_pairs_stand_before_layers_residual_additions_and_pools_only() -> None:
    model = network()
    result = quantized_int8(model, ranges_of(model, images()))
    assert readers(result, "QuantizeLinear") == {"DequantizeLinear": 9}
    # 5 layers' data and 5 layers' weights, 2 inputs of the addition, both pools, Flatten
    read = readers(result, "DequantizeLinear")
    assert read == {"Conv": 8, "Gemm": 2, "Add": 2, "MaxPool": 1, "ReduceMean": 1, "Flatten": 1}
    # none between a convolution and its activation
    assert readers(result, "Conv") == {"Relu": 2, "QuantizeLinear": 1, "Clip": 1}


def test_int8_is_symmetric_with_one_scale_a_channel_and_biases_stay_fp32() -> None:
    model = network()
    result = quantized_int8(model, ranges_of(model, images()))
    for node in result.graph:
        if node.op_type == "DequantizeLinear":
            zero = node.inputs[2].const_value.numpy()
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type in ("Conv", "Gemm"):
            pair = node.inputs[1].producer()
            assert pair.inputs[0].const_value.dtype == ir.DataType.INT8
            assert pair.inputs[1].shape[0] == node.inputs[2].shape[0]
            assert node.inputs[2].const_value.dtype == ir.DataType.FLOAT


def test_unsigned_activations_are_one_sided_behind_a_relu_and_centred_elsewhere() -> None:
    """Two-sided: the images, and the second convolution, which the addition reads. One-sided: three
    Relus, the last of them also behind MaxPool, and a Relu6, also behind pooling and Flatten."""
    model, x = network(), images()
    ranges = ranges_of(model, x)
    result = quantized_int8(model, ranges, unsigned=True)
    points: Counter[int] = Counter()
    for node in result.graph:
        if node.op_type == "QuantizeLinear":
            zero = node.inputs[2].const_value.numpy()
            assert zero.dtype == np.uint8
            points[int(zero)] += 1
            amax = ranges.amax[node.inputs[1].name.removesuffix("_scale")]
            levels = 255 if zero == 0 else 127
            assert float(node.inputs[1].const_value.numpy()) == np.float32(amax / levels)
    assert points == {128: 2, 0: 7}
    assert error(run(result, x), run(model, x)) < 0.05


def test_onnxruntime_runs_convolutions_before_a_relu_in_integers_if_activations_are_unsigned() -> (
    None
):
    """All four convolutions; of signed ones only that before the addition."""
    model, x = network(), images()
    ranges = ranges_of(model, x)

    def integer_layers(*, unsigned: bool) -> int:
        result = quantized_int8(model, ranges, unsigned=unsigned)
        text = ir.to_proto(result).SerializeToString()
        target = ready_target("onnxruntime-cpu")
        with target.open(text, batch=1, threads=1, precision="int8", profile=True) as session:
            return Counter(layer.op for layer in session.layers(3))["QLinearConv"]

    assert (integer_layers(unsigned=True), integer_layers(unsigned=False)) == (4, 1)


def test_a_pair_behind_a_maxpool_changes_nothing() -> None:
    model = network()
    result = quantized_int8(model, ranges_of(model, images()))
    pool = next(node for node in result.graph if node.op_type == "MaxPool")
    before, after = pool.inputs[0].producer(), next(iter(pool.outputs[0].uses())).node
    assert before.inputs[1] is after.inputs[1]


def test_the_given_model_is_left_as_it_was() -> None:
    model, x = network(), images()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    quantized_int8(model, ranges_of(model, x))
    typed_fp16(model)
    typed_bf16(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_layers_that_are_kept_stay_fp32_and_unknown_names_are_refused() -> None:
    model = network()
    names = quantizable(model)
    kept = [names[0], "8"]  # a node and a module: the first convolution and the classifier
    result = quantized_int8(model, ranges_of(model, images(), kept), keep_fp32=kept)
    by_name = {node.name: node for node in result.graph}
    assert by_name[names[0]].inputs[1].const_value.dtype == ir.DataType.FLOAT
    assert next(n for n in result.graph if n.op_type == "Gemm").inputs[1].producer() is None
    with pytest.raises(FBNError, match="No layer that INT8 could run called 'steem'"):
        activations(model, ["steem"])
    with pytest.raises(FBNError, match="Nothing is left for INT8"):
        quantized_int8(model, ranges_of(model, images()), keep_fp32=["*"])


def test_ranges_of_another_model_are_refused() -> None:
    model = network()
    found = Ranges({"images": 1.0}, {}, "minmax", "", "", 8)
    with pytest.raises(FBNError, match="The ranges lack 6 tensors"):
        quantized_int8(model, found)


def test_bias_correction_brings_the_mean_outputs_nearer() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    model, x = onnx_from_module(nn.Sequential(*layers), 16), 2 + images(256)
    found, expected = ranges_of(model, x), run(model, x).mean(axis=0)
    plain, corrected = (
        run(quantized_int8(model, found, correct_bias=choice), x).mean(axis=0)
        for choice in (False, True)
    )
    assert np.abs(corrected - expected).mean() < 0.7 * np.abs(plain - expected).mean()


def test_bias_correction_behind_a_maxpool_takes_the_means_of_what_it_keeps() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 1), nn.ReLU(), nn.MaxPool2d(3, 1), nn.Conv2d(16, 16, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model, x = onnx_from_module(nn.Sequential(*layers), 16), images(64)
    found, expected = ranges_of(model, x), run(model, x).mean(axis=0)
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    source, kept = (found.means[value.name] for value in (pool.inputs[0], pool.outputs[0]))
    assert min(np.subtract(kept, source)) > 0.3
    of_source = dataclasses.replace(found, means={**found.means, pool.outputs[0].name: source})
    right, wrong = (
        run(quantized_int8(model, ranges, weight_levels=31), x).mean(axis=0)
        for ranges in (found, of_source)
    )
    assert np.abs(right - expected).mean() < 0.5 * np.abs(wrong - expected).mean()


def test_weight_scales_by_mse_are_never_worse_in_any_channel() -> None:
    weight = np.random.default_rng(0).standard_t(4, (8, 256, 1, 1)).astype(np.float32)
    errors = []
    for by_mse in (True, False):
        scales = int8_weights.channel_scales(weight, 0, by_mse)
        near = int8_weights.restored(int8_weights.quantized(weight, scales, 0), scales, 0)
        errors.append(((near - weight) ** 2).sum(axis=(1, 2, 3)))
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert errors[0].sum() < errors[1].sum()


def test_a_channel_of_zeros_stays_one_and_nothing_is_divided_by_its_range() -> None:
    weight = np.zeros((2, 4), np.float32)
    with np.errstate(all="raise"):
        scales = int8_weights.channel_scales(weight, 0, by_mse=True)
        integers = int8_weights.quantized(weight, scales, 0)
    assert not int8_weights.restored(integers, scales, 0).any()


def small(nodes: list[onnx.NodeProto], shape: list[int | str], opset: int = 18,
          **constants: np.ndarray) -> ir.Model:  # fmt: skip
    """A graph from ``images`` of ``shape`` to ``logits``, types and shapes inferred."""
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("images", kind, shape)],
        [onnx.helper.make_tensor_value_info("logits", kind, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
@pytest.mark.parametrize("by_mse", [False, True], ids=["largest", "mse"])
@pytest.mark.parametrize("tiny", [1e-7, 1e-44, 0.0])
def test_a_channel_of_tiny_weights_keeps_its_bias(
    tiny: float, by_mse: bool, unsigned: bool
) -> None:
    """Before another pair ONNX Runtime holds biases in int32, in steps of the scales of input and
    weights."""
    weight = np.full((3, 3, 1, 1), 0.5, np.float32)
    weight[1] = np.float32(tiny) * np.array([1, -1, 1], np.float32)[:, None, None]
    bias = np.array([0.5, 1.0, -2.0], np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w", "b"], ["c"], name="conv"),
        onnx.helper.make_node("GlobalAveragePool", ["c"], ["logits"], name="pool"),
    ]
    model, x = small(nodes, ["N", 3, 16, 16], w=weight, b=bias), images()
    found = ranges_of(model, x)
    quantized = quantized_int8(model, found, weights_by_mse=by_mse, unsigned=unsigned)
    with ready_target("onnxruntime-cpu").open(
        ir.to_proto(quantized).SerializeToString(), batch=len(x), threads=1, precision="int8"
    ) as session:
        answer = session.run({"images": x})["logits"]
    np.testing.assert_allclose(answer[:, 1], 1.0, rtol=0.01)
    np.testing.assert_allclose(answer, run(model, x), atol=0.1)


def test_the_least_scale_suits_all_layers_that_share_a_weight() -> None:
    weight = np.full((3, 3, 1, 1), 1e-8, np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["a"], name="one"),
        onnx.helper.make_node("Conv", ["a", "w", "b"], ["logits"], name="two"),
    ]
    model = small(nodes, ["N", 3, 16, 16], w=weight, b=np.full(3, 7.0, np.float32))
    found = Ranges({"images": 1.0, "a": 1e-7}, {}, "made up", "", "", 8)
    scales = quantized_int8(model, found).graph.initializers["w_scale"].const_value.numpy()
    assert scales == pytest.approx(7 / (2**30 * 1e-7 / 127), rel=1e-6)


def test_a_gemm_that_ignores_its_bias_gets_a_corrected_one() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 8)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["flat"]),
        onnx.helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], name="gemm", beta=0.0),
    ]
    model = small(nodes, ["N", 3, 16, 16], w=weight, b=np.full(8, 1e6, np.float32))
    x = 1 + images()
    result = quantized_int8(model, ranges_of(model, x))
    gemm = next(node for node in result.graph if node.op_type == "Gemm")
    assert gemm.attributes["beta"].value == 1.0
    assert np.abs(gemm.inputs[2].const_value.numpy()).max() < 0.1
    assert error(run(result, x), run(model, x)) < 0.02


def test_an_addition_of_a_view_of_a_constant_is_not_quantised() -> None:
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["c"], name="conv"),
        onnx.helper.make_node("Reshape", ["k", "sizes"], ["view"], name="reshape"),
        onnx.helper.make_node("Add", ["c", "view"], ["logits"], name="add"),
    ]
    model = small(
        nodes,
        ["N", 3, 16, 16],
        w=np.ones((4, 3, 1, 1), np.float32),
        k=np.arange(4, dtype=np.float32),
        sizes=np.array([4, 1, 1]),
    )
    x = images()
    assert activations(model) == ["images"]
    assert error(run(quantized_int8(model, ranges_of(model, x)), x), run(model, x)) < 0.02


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [("ConvTranspose", [(4, 3, 2, 2), (6,)], {"group": 2}), ("MatMul", [(4, 16, 5)], {})],
    ids=["grouped transposed convolution", "stack of matrices"],
)
def test_grouped_transposed_convolutions_and_stacks_of_matrices_stay_fp32(
    op: str, shapes: list[tuple[int, ...]], attributes: dict[str, int], unsigned: bool
) -> None:
    rng = np.random.default_rng(0)
    constants = {f"k{i}": rng.standard_normal(s, np.float32) for i, s in enumerate(shapes)}
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["c"], name="conv"),
        onnx.helper.make_node(op, ["c", *constants], ["logits"], name="layer", **attributes),
    ]
    weight = rng.standard_normal((4, 3, 1, 1), np.float32)
    model, x = small(nodes, ["N", 3, 16, 16], w=weight, **constants), images()
    result = quantized_int8(model, ranges_of(model, x), unsigned=unsigned)
    assert error(run(result, x, precision="int8"), run(model, x)) < 0.02
    assert quantizable(model) == ["conv"]


class Twice(nn.Module):
    """One convolution applied twice, a channel shuffle before the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(torch.relu(self.conv(torch.relu(self.stem(x))))))
        shuffled = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        out: torch.Tensor = self.last(shuffled)
        return out


def test_layers_that_share_a_weight_share_its_integers() -> None:
    torch.manual_seed(0)
    model, x = fold_affine(onnx_from_module(Twice(), 16))[0], images()
    quantized = quantized_int8(model, ranges_of(model, x))
    proto = ir.to_proto(quantized)
    onnx.checker.check_model(proto, full_check=True)
    names = [node.name for node in proto.graph.node]
    assert len(names) == len(set(names))
    _, first, second, _ = (node for node in quantized.graph if node.op_type == "Conv")
    assert first.inputs[1] is second.inputs[1]
    stored = [each for each in proto.graph.initializer if each.data_type == onnx.TensorProto.INT8]
    assert sum(len(each.dims) == 4 for each in stored) == 3
    assert error(run(quantized, x), run(model, x)) < 0.05


def test_bias_correction_behind_a_channel_shuffle_takes_the_means_of_its_own_channels() -> None:
    torch.manual_seed(0)
    module = Twice()
    with torch.no_grad():
        module.conv.bias.copy_(torch.linspace(-1, 3, 8))  # channels differ in their means
    model, x = fold_affine(onnx_from_module(module, 16))[0], images()
    ranges = ranges_of(model, x)
    kept = [name for name in quantizable(model) if "last" not in name]
    coarse = functools.partial(quantized_int8, model, ranges, keep_fp32=kept, weight_levels=7)
    means = {
        corrected: run(coarse(correct_bias=corrected), x).mean((0, 2, 3))
        for corrected in (False, True)
    }
    expected = run(model, x).mean((0, 2, 3))
    assert np.abs(means[True] - expected).mean() < 0.3 * np.abs(means[False] - expected).mean()
