"""Folding leaves alone what others rely on, and survives every file."""

from __future__ import annotations

import hashlib
import random
import sys
import time

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_folding_rules import triangle

from fbn_deploy import processes
from fbn_deploy.cli import main
from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import FoldReport, fold_affine, fold_file
from fbn_deploy.export.folding.check import (
    MAX_ERROR,
    MAX_ERROR_COARSE,
    CannotCheck,
    limit_of,
    relative_error,
)
from fbn_deploy.targets import shifts_as_convolution

TOLERANCE = 1e-5


def graph_of(body: str, outputs: str, opset: int = 17, ir_version: int = 8, **weights):
    """A float32 model that reads ``x`` (N, 4, 6, 5); weights drawn as in test_folding_rules."""
    proto = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n'
        f"test (float[N,4,6,5] x) => ({outputs}) {{\n{body}\n}}"
    )
    rng = np.random.default_rng(0)
    for name, given in {"g": (4,), "b": (4,), "m": (4,), "v": (4,), **weights}.items():
        array = given
        if isinstance(given, tuple):
            drawn = rng.uniform(0.5, 1.5, given) if name[0] in "gv" else rng.normal(size=given)
            array = drawn.astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def folded(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, FoldReport]:
    result, report = fold_affine(ir.from_proto(proto))
    after = ir.to_proto(result)
    onnx.checker.check_model(after, full_check=True)
    error = relative_error(proto.SerializeToString(), after.SerializeToString())
    assert error <= TOLERANCE
    return after, report


BN = "BatchNormalization({}, g, b, m, v)"
CONV_BN = f"c = Conv(x, w)\nn = {BN.format('c')}\ny = Relu(n)"
IMAGE = "float[N,C,H,W] {}"


def test_a_tensor_with_two_readers_serves_both():
    body = f"c = Conv(x, w)\nn = {BN.format('c')}\nr = Relu(n)\np = Relu(c)\ny = Add(r, p)"
    _, report = folded(graph_of(body, IMAGE.format("y"), w=(4, 4, 3, 3)))
    assert report.batchnorm_after == 0


@pytest.mark.parametrize("outputs", ["c", "n", "x2", "c, n", "n, x2"])
def test_graph_outputs_in_the_middle_keep_their_name_and_value(outputs):
    body = f"x2 = Relu(x)\nc = Conv(x2, w)\nn = {BN.format('c')}\ny = Relu(n)"
    listed = ", ".join(IMAGE.format(name.strip()) for name in ["y", *outputs.split(",")])
    after, report = folded(graph_of(body, listed, w=(4, 4, 3, 3)))
    assert [value.name for value in after.graph.output] == ["y", *outputs.split(", ")]
    assert report.batchnorm_after == 0


def test_a_batchnorm_between_input_and_output_becomes_one_node():
    after, report = folded(graph_of(f"y = {BN.format('x')}", IMAGE.format("y")))
    assert (report.scales_stayed, report.shifts_stayed) == (1, 1)
    assert [node.op_type for node in after.graph.node] == ["Conv"]


def test_a_trivial_batchnorm_between_input_and_output_is_an_identity():
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    proto = graph_of(
        "y = BatchNormalization<epsilon=0.0>(x, g, b, m, v)",
        IMAGE.format("y"),
        g=one,
        b=zero,
        m=zero,
        v=one,
    )
    after, _ = folded(proto)
    assert [node.op_type for node in after.graph.node] == ["Identity"]


def test_shared_weights_are_given_to_each_reader_apart():
    body = (
        f"c = Conv(x, w)\nn = {BN.format('c')}\nr = Relu(n)\nd = Conv(r, w)\ne = Relu(d)\n"
        "y = Conv(e, w)"
    )
    after, _ = folded(graph_of(body, IMAGE.format("y"), w=(4, 4, 1, 1)))
    assert len({node.input[1] for node in after.graph.node if node.op_type == "Conv"}) == 2


def test_weights_that_a_caller_can_override_are_walls():
    proto = graph_of(CONV_BN, IMAGE.format("y"), w=(4, 4, 3, 3))
    proto.graph.input.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, [4]))
    _, report = fold_affine(ir.from_proto(proto))
    assert report.batchnorm_after == 1
    assert any("scale is computed while the network runs" in wall.reason for wall in report.walls)
    assert report.warnings


def test_a_batchnorm_with_one_mean_for_every_pixel_is_left_alone():
    body = "c = Conv(x, w)\nn = BatchNormalization<spatial=0>(c, g, b, m, v)\ny = Conv(n, w)"
    sizes = dict.fromkeys("gbmv", (4 * 6 * 5,))
    proto = graph_of(body, IMAGE.format("y"), opset=7, ir_version=3, w=(4, 4, 1, 1), **sizes)
    _, report = fold_affine(ir.from_proto(proto))
    assert report.batchnorm_after == 1
    assert any("within a channel" in wall.reason for wall in report.walls)


def batchnorm_with_outputs(*names: str, opset: int) -> onnx.ModelProto:
    body = f"c = Conv(x, w)\nn = {BN.format('c')}\nd = Relu(n)\ny = Conv(d, w)"
    proto = graph_of(body, IMAGE.format("y"), opset=opset, w=(4, 4, 1, 1))
    proto.graph.node[1].output.extend(names)
    return proto


def test_outputs_of_a_batchnorm_that_are_left_out_by_empty_names_do_no_harm():
    proto = batchnorm_with_outputs("", "", "", "", opset=9)
    onnx.checker.check_model(proto)
    model, report = fold_affine(ir.from_proto(proto))  # not run: ONNX Runtime 1.31 crashes on it
    assert [node.op_type for node in model.graph] == ["Conv", "Relu", "Conv"]
    assert not report.stayed


def test_a_batchnorm_of_an_old_opset_that_gives_statistics_is_in_training_mode():
    _, report = folded(batchnorm_with_outputs("m1", "v1", "m2", "v2", opset=9))
    assert report.batchnorm_after == 1
    assert any("training mode" in wall.reason for wall in report.walls)


@pytest.mark.parametrize(("value", "stayed"), [(0.0, 1), (-1.0, 2)])
def test_a_pad_of_an_old_opset_says_in_an_attribute_what_it_pads_with(value, stayed):
    body = (
        f"r = Relu(x)\nn = {BN.format('r')}\n"
        f"p = Pad<pads=[0,0,1,1,0,0,1,1], value={value}>(n)\ny = Conv(p, w)"
    )
    _, report = folded(graph_of(body, IMAGE.format("y"), opset=10, w=(3, 4, 3, 3)))
    assert report.scales_stayed + report.shifts_stayed == stayed


@pytest.mark.parametrize("opset", [13, 14, 15, 18, 20, 22, onnx.defs.onnx_opset_version()])
def test_opsets_13_to_the_newest_fold(opset):
    body = (
        f"c = Conv(x, w)\nn = {BN.format('c')}\nr = Relu(n)\n"
        f"p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)\nq = {BN.format('p')}\n"
        "y = Conv(q, w)"
    )
    proto = graph_of(body, IMAGE.format("y"), opset=opset, w=(4, 4, 1, 1))
    model, report = fold_affine(ir.from_proto(proto))
    assert not report.stayed
    assert model.opset_imports[""] == opset


def test_subgraphs_and_what_they_read_are_left_alone_and_named():
    body = f"""c = Conv(x, w)
        n = {BN.format("c")}
        s = ReduceSum<keepdims=0>(n)
        t = Greater(s, zero)
        y = If(t) <
            then_branch = yes () => (float[N,4,6,5] a) {{ a = {BN.format("n")} }},
            else_branch = no () => (float[N,4,6,5] z) {{ z = Relu(n) }}
        >"""
    proto = graph_of(body, IMAGE.format("y"), w=(4, 4, 1, 1), zero=np.zeros((), np.float32))
    after, report = folded(proto)
    assert report.batchnorm_after == 0
    assert [alone.op_type for alone in report.subgraphs] == ["If"]
    assert "1 of them BatchNormalization" in report.subgraphs[0].reason
    assert any("subgraph" in wall.reason for wall in report.walls)
    assert any(node.op_type == "If" for node in after.graph.node)


def test_float16_weights_stay_float16_and_the_gauge_is_narrow():
    proto = graph_of(CONV_BN, IMAGE.format("y"), w=(4, 4, 3, 3))
    for tensor in proto.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    model, report = fold_affine(ir.from_proto(proto))
    assert report.batchnorm_after == 0
    kinds = {value.dtype for value in model.graph.initializers.values()}
    assert kinds == {ir.DataType.FLOAT16}


# ---------------------------------------------------------------------------------- files


def a_file(folder, name: str = "in.onnx", **options):
    path = folder / name
    onnx.save_model(graph_of(CONV_BN, IMAGE.format("y"), w=(4, 4, 3, 3)), path, **options)
    return path


def test_a_file_is_folded_checked_and_reported(tmp_path):
    source = a_file(tmp_path)
    before = hashlib.sha256(source.read_bytes()).digest()
    report = fold_file(source, tmp_path / "out.onnx", tmp_path / "report.json")
    assert report.batchnorm_before == 1
    assert report.batchnorm_after == 0
    assert report.max_error is not None
    assert report.max_error <= TOLERANCE
    assert hashlib.sha256(source.read_bytes()).digest() == before
    assert (tmp_path / "report.json").stat().st_size > 100
    onnx.checker.check_model(str(tmp_path / "out.onnx"))


def test_external_weights_are_read_and_put_into_the_result(tmp_path):
    (tmp_path / "a").mkdir()
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    source = a_file(tmp_path / "a", **options)
    assert (tmp_path / "a" / "weights.bin").exists()
    report = fold_file(source, tmp_path / "b" / "out.onnx")
    assert report.max_error is not None
    assert report.max_error <= TOLERANCE


def test_external_weights_that_folding_leaves_alone_are_put_into_the_result(tmp_path):
    body = f"{CONV_BN.replace('y', 'r')}\nd = Conv(r, w2)\ne = Sigmoid(d)\ny = Conv(e, w2)"
    (tmp_path / "a").mkdir()
    source = tmp_path / "a" / "in.onnx"
    onnx.save_model(
        graph_of(body, IMAGE.format("y"), w=(4, 4, 3, 3), w2=(4, 4, 1, 1)),
        source,
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    report = fold_file(source, tmp_path / "b" / "out.onnx")
    assert (report.batchnorm_after, report.check) == (0, "ONNX Runtime, one random input")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["out.onnx"]


WRONG = {
    "a value": ("w * 1.25", "differs by 2.5e-01"),
    "infinity": ("w / 0", "infinity"),
    "a shape": ("w[:2]", "other shapes"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_result_that_computes_something_else_is_not_written(tmp_path, monkeypatch, capsys, how):
    # The worker, with a fold_affine that changes the weight of the last convolution.
    change, message = WRONG[how]
    script = f"""import sys, numpy as np, onnx_ir as ir
from fbn_deploy.export.folding import fold, worker
right = fold.fold_affine
def wrong(model, **options):
    folded, report = right(model, **options)
    value = folded.graph[-1].inputs[1]
    w = value.const_value.numpy()
    value.const_value = ir.tensor(({change}).astype(np.float32), name=value.name)
    value.shape = value.const_value.shape
    return folded, report
fold.fold_affine = wrong
worker.main([])"""
    monkeypatch.setattr(processes, "command", lambda module: [sys.executable, "-c", script])
    proto = graph_of(
        f"{CONV_BN.replace('y', 'r')}\ny = Conv(r, w)", IMAGE.format("y"), w=(4, 4, 1, 1)
    )
    onnx.save_model(proto, tmp_path / "in.onnx")
    written = [str(tmp_path / name) for name in ("out.onnx", "report.json")]
    monkeypatch.setattr(
        "sys.argv", ["fbn", "fold", str(tmp_path / "in.onnx"), written[0], "--report", written[1]]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_half_precision_is_held_to_its_own_rounding():
    proto = graph_of(CONV_BN, IMAGE.format("y"), w=(4, 4, 3, 3))
    assert limit_of(ir.from_proto(proto)) == MAX_ERROR
    proto.graph.initializer[0].data_type = TensorProto.FLOAT16
    assert limit_of(ir.from_proto(proto)) == MAX_ERROR_COARSE


def test_labels_may_differ_in_few_places_where_two_classes_are_near():
    def labels(bonus: float) -> bytes:
        first = np.array([bonus, 0, 0, 0], np.float32).reshape(1, 4, 1, 1)
        body = "s = Add(x, c)\ny = ArgMax<axis=1, keepdims=0>(s)"
        return graph_of(body, "int64[N,H,W] y", c=first).SerializeToString()

    assert relative_error(labels(0.0), labels(0.0)) == 0.0
    assert 0.0 < relative_error(labels(0.0), labels(0.2)) < 0.2
    assert relative_error(labels(0.0), labels(100.0)) > 0.5


def test_a_check_says_which_of_both_models_does_not_run():
    runs = graph_of("y = Relu(x)", IMAGE.format("y"))
    unknown = graph_of("y = Relu(x)", IMAGE.format("y"))
    unknown.graph.node[0].op_type = "Rulu"
    with pytest.raises(FBNError, match="does not run the result"):
        relative_error(runs.SerializeToString(), unknown.SerializeToString())
    with pytest.raises(CannotCheck, match="does not run it"):
        relative_error(unknown.SerializeToString(), runs.SerializeToString())


def test_the_input_file_is_never_the_output_file(tmp_path):
    source = a_file(tmp_path)
    with pytest.raises(FBNError, match="overwrite itself"):
        fold_file(source, source)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There is no file"), (b"", "no valid ONNX model"), (b"hello", "no valid ONNX model")],
)
def test_what_is_no_model_gets_one_clear_error_and_leaves_nothing(tmp_path, content, message):
    source = tmp_path / "bad.onnx"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(FBNError, match=message) as caught:
        fold_file(source, tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def cyclic() -> onnx.ModelProto:
    proto = graph_of("a = Relu(x)\ny = Relu(a)", IMAGE.format("y"))
    proto.graph.node[0].input[0] = "y"
    return proto


def giant() -> onnx.ModelProto:
    proto = graph_of(CONV_BN, IMAGE.format("y"), w=(4, 4, 3, 3))
    for dimension in proto.graph.input[0].type.tensor_type.shape.dim:
        dimension.dim_value = 2**40
    return proto


def giant_weight() -> onnx.ModelProto:
    proto = graph_of(CONV_BN, IMAGE.format("y"), w=(4, 4, 3, 3))
    proto.graph.initializer[-1].dims[0] = 2**50
    return proto


def wrong_shapes() -> onnx.ModelProto:
    proto = graph_of(CONV_BN, IMAGE.format("y"), w=(4, 4, 3, 3))
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(7, np.float32), "g"))
    return proto


@pytest.mark.parametrize("damage", [cyclic, giant, giant_weight, wrong_shapes])
def test_impossible_graphs_end_in_a_report_or_one_clear_error(tmp_path, damage):
    (tmp_path / "in.onnx").write_bytes(damage().SerializeToString())
    start = time.monotonic()
    try:
        report = fold_file(tmp_path / "in.onnx", tmp_path / "out.onnx", time_limit_s=60)
    except FBNError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert report.max_error is None or report.max_error <= TOLERANCE
    assert time.monotonic() - start < 60


def mutants(count: int) -> list[bytes]:
    """Truncations and bit flips of a small valid model."""
    rng = random.Random(0)
    valid = graph_of(CONV_BN, IMAGE.format("y"), w=(4, 4, 3, 3)).SerializeToString()
    made = []
    for number in range(count):
        content = bytearray(valid)
        if number % 3 == 0:
            content = content[: rng.randrange(len(content))]
        for _ in range(rng.randrange(1, 8) if number % 3 else 0):
            place = rng.randrange(len(content))
            content[place] ^= 1 << rng.randrange(8)
        made.append(bytes(content))
    return made


@pytest.mark.parametrize("number", range(9))
def test_a_fuzzed_file_never_crashes_or_hangs_the_caller(tmp_path, number):
    (tmp_path / "in.onnx").write_bytes(mutants(9)[number])
    try:
        report = fold_file(tmp_path / "in.onnx", tmp_path / "out.onnx", time_limit_s=60)
    except FBNError:
        assert not (tmp_path / "out.onnx").exists()
    else:
        assert isinstance(report, FoldReport)


@pytest.mark.parametrize(
    ("target", "expected"), [(None, False), ("onnxruntime-cpu", False), ("openvino-cpu", True)]
)
def test_what_stays_takes_the_form_that_the_target_runs_fastest(
    tmp_path, monkeypatch, target, expected
):
    onnx.save_model(triangle(), tmp_path / "in.onnx")
    asked = [] if target is None else ["--target", target]
    arguments = ["fbn", "fold", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), *asked]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    operators = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert ("Mul" in operators) == expected


def test_a_file_for_several_targets_is_written_for_the_one_that_loses_most():
    assert not shifts_as_convolution(["openvino-cpu"])
    assert shifts_as_convolution(["openvino-cpu", "onnxruntime-cpu"])
    assert shifts_as_convolution([])
