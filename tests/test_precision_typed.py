"""Graphs in 16 bits: what holds them, what stays float32, and that the numbers are near."""

from __future__ import annotations

from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from test_precision import error, images, network, run, small
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.precision import typed_bf16, typed_fp16
from fbn_deploy.targets import ready_target


@pytest.mark.parametrize("typed", [typed_fp16, typed_bf16])
def test_a_typed_network_holds_16_bits_inside_and_float32_outside(typed) -> None:
    result = typed(network())
    wanted = ir.DataType.FLOAT16 if typed is typed_fp16 else ir.DataType.BFLOAT16
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    assert [result.graph.inputs[0].name, result.graph.outputs[0].name] == ["images", "logits"]
    assert result.graph.inputs[0].dtype == result.graph.outputs[0].dtype == ir.DataType.FLOAT
    for node in result.graph:
        if node.op_type != "Cast":
            assert {value.dtype for value in node.outputs} == {wanted}
    assert Counter(n.op_type for n in result.graph)["Cast"] == 2


def test_fp16_answers_like_fp32() -> None:
    model, x = network(), images()
    assert error(run(typed_fp16(model), x), run(model, x)) < 2e-3


def test_bf16_answers_like_fp32_on_a_target_that_runs_it() -> None:
    target = ready_target("openvino-cpu") if not _openvino_missing() else None
    if target is None:
        pytest.skip("openvino is not installed")
    model, x = network(), images()
    content = ir.to_proto(typed_bf16(model)).SerializeToString()
    with target.open(content, batch=len(x), threads=1, precision="bf16") as session:
        assert error(session.run({"images": x})["logits"], run(model, x)) < 2e-2


def _openvino_missing() -> bool:
    try:
        import openvino  # noqa: F401
    except ImportError:
        return True
    return False


def test_a_weight_beyond_fp16_is_refused_and_bf16_takes_it() -> None:
    model = network()
    weight = next(iter(model.graph.initializers.values()))
    big = np.full(weight.shape.numpy(), 1e5, np.float32)
    weight.const_value = ir.tensor(big, name=weight.name)
    with pytest.raises(FBNError, match=r"exceed what float16 holds.*1e\+05.*bf16"):
        typed_fp16(model)
    stored = typed_bf16(model).graph.initializers[weight.name].const_value
    assert stored.numpy().flat[0] == np.float32(1e5).astype(ml_dtypes.bfloat16)


def test_bf16_refuses_opsets_in_which_axes_are_an_attribute_and_takes_later_ones() -> None:
    old = onnx.helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0)
    with pytest.raises(FBNError, match="bf16 needs opset 18, and the model has 17"):
        typed_bf16(small([old], ["N", 3, 16, 16], opset=17))
    new = onnx.helper.make_node("ReduceMean", ["images", "axes"], ["logits"], keepdims=0)
    model = small([new], ["N", 3, 16, 16], axes=np.array([2, 3]))
    onnx.checker.check_model(ir.to_proto(typed_bf16(model)), full_check=True)


def test_operands_that_must_be_float32_keep_it() -> None:
    class Enlarging(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")

    layers = [nn.Conv2d(3, 4, 1), Enlarging(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model, x = onnx_from_module(nn.Sequential(*layers), 8), images(4, 8)
    assert "Resize" in {node.op_type for node in model.graph}
    assert error(run(typed_fp16(model), x), run(model, x)) < 2e-3


@pytest.mark.parametrize("typed", [typed_fp16, typed_bf16], ids=["fp16", "bf16"])
def test_a_fill_and_an_operator_that_stays_float32_are_valid(typed) -> None:
    nodes = [
        onnx.helper.make_node("Shape", ["images"], ["shape"]),
        onnx.helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        onnx.helper.make_node("Add", ["images", "zeros"], ["sum"]),
        onnx.helper.make_node("Einsum", ["images", "sum"], ["logits"], equation="ij,ij->ij"),
    ]
    found = ir.to_proto(typed(small(nodes, [2, 3])))
    onnx.checker.check_model(found, full_check=True)
    if typed is typed_fp16:
        x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
        np.testing.assert_allclose(run(ir.from_proto(found), x), x * x)
