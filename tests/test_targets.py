"""What every target does; run for each one that is ready here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fbn_deploy import targets as room
from fbn_deploy.errors import FBNError
from fbn_deploy.targets import NoLayerTimes, Target, default_target, ready_target, targets

READY = [target for target in targets() if target.missing() is None]
ABSENT = [target for target in targets() if target.missing() is not None]
every_ready_target = pytest.mark.parametrize("target", READY, ids=lambda target: target.name)


def small_network(batch: int | str = 1, channels: int = 4, value: float = 0.1) -> bytes:
    """Conv 3×3 → Relu → mean over the image → Flatten: (batch, 3, 8, 8) → (batch, channels)."""
    weight = np.full((channels, 3, 3, 3), value, np.float32)
    bias = np.arange(channels, dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="stem.conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="stem.relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="head.pool"),
        helper.make_node("Flatten", ["p"], ["y"], name="head.flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, channels])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def too_large() -> bytes:
    """x repeated to 16 GB: it can be opened."""
    repeats = numpy_helper.from_array(np.array([1, 1 << 22]), "repeats")
    graph = helper.make_graph(
        [helper.make_node("Tile", ["x", "repeats"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [repeats],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def images(batch: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, 8, 8)).astype(np.float32)


@every_ready_target
def test_outputs_agree_with_the_onnx_reference(target: Target) -> None:
    model, x = small_network(), images()
    expected = ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"x": x})[0]
    with target.open(model, batch=1, threads=1) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


@every_ready_target
def test_a_free_batch_dimension_becomes_the_batch(target: Target) -> None:
    with target.open(small_network(batch="N"), batch=3, threads=1) as session:
        assert session.input_shapes == {"x": (3, 3, 8, 8)}
        assert session.run({"x": images(3)})["y"].shape == (3, 4)


@every_ready_target
def test_a_model_opens_from_its_file_as_from_its_bytes(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(small_network())
    with (
        target.open(path, batch=1, threads=1) as from_file,
        target.open(small_network(), batch=1, threads=1) as from_bytes,
    ):
        x = images()
        np.testing.assert_array_equal(from_file.run({"x": x})["y"], from_bytes.run({"x": x})["y"])


@every_ready_target
def test_timing_runs_and_real_runs_do_not_disturb_each_other(target: Target) -> None:
    with target.open(small_network(), batch=1, threads=1) as session:
        first, second = images(seed=1), images(seed=2)
        before = session.run({"x": first})["y"]
        session.enqueue()
        other = session.run({"x": second})["y"]
        session.enqueue()
        np.testing.assert_array_equal(session.run({"x": first})["y"], before)
        assert not np.array_equal(before, other)


@every_ready_target
def test_layers_bear_the_names_of_nodes_and_take_time(target: Target) -> None:
    model = small_network(channels=256)  # long enough for a profiler that counts microseconds
    with target.open(model, batch=1, threads=1, profile=True) as session:
        try:
            layers = session.layers(runs=20)
        except NoLayerTimes as error:
            pytest.skip(str(error))
    names = {name for layer in layers for name in (layer.name, *layer.aliases)}
    assert names & {"stem.conv", "c", "r"}  # the node, or a value that it writes after fusion
    assert names & {"head.pool", "p"}
    assert sum(layer.latency_ms for layer in layers) > 0


@every_ready_target
def test_layers_are_not_read_from_a_session_that_times_the_whole(target: Target) -> None:
    with target.open(small_network(), batch=1, threads=1) as session, pytest.raises(AssertionError):
        session.layers(runs=1)


@every_ready_target
def test_closing_twice_is_harmless(target: Target) -> None:
    session = target.open(small_network(), batch=1, threads=1, profile=True)
    session.close()
    session.close()


@every_ready_target
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (b"not a model", "cannot be opened"),
        (b"", "cannot be opened"),
        (small_network()[:200], "cannot be opened"),
        (small_network(batch=2), "fixed batch of 2"),
        (Path("no/such/model.onnx"), "There is no ONNX file"),
    ],
    ids=["text", "nothing", "truncated", "other batch", "no file"],
)
def test_a_model_that_cannot_run_is_refused_with_the_reason(
    target: Target, model: bytes | Path, said: str
) -> None:
    with pytest.raises(FBNError, match=said):
        target.open(model, batch=1, threads=1)


@every_ready_target
def test_requests_that_no_target_serves_are_refused(target: Target) -> None:
    with pytest.raises(FBNError, match="does not run 'fp7'; it runs: fp32"):
        target.open(small_network(), batch=1, threads=1, precision="fp7")
    with pytest.raises(FBNError, match="at least 1"):
        target.open(small_network("N"), batch=0, threads=1)


@every_ready_target
def test_every_wrong_input_is_named(target: Target) -> None:
    with target.open(small_network(), batch=1, threads=1) as session:
        with pytest.raises(FBNError, match=r"no input 'z'; 'x' takes .*missing"):
            session.run({"z": images()})
        with pytest.raises(FBNError, match=r"takes \[1, 3, 8, 8\] float32, got \[2, 3, 8, 8\]"):
            session.run({"x": images(2)})
        with pytest.raises(FBNError, match="float64"):
            session.run({"x": images().astype(np.float64)})


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_every_target_is_named_after_its_file_and_describes_itself(target: Target) -> None:
    assert (Path(room.__path__[0]) / f"{target.name.replace('-', '_')}.py").is_file()
    assert target.description
    assert "\n" not in target.description
    assert "fp32" in target.precisions


@every_ready_target
def test_a_ready_target_tells_its_versions_and_its_device(target: Target) -> None:
    assert ready_target(target.name) is target
    assert target.device()
    assert all(target.versions().values())


@pytest.mark.parametrize("target", ABSENT, ids=lambda target: target.name)
def test_a_target_that_is_not_ready_says_why_and_what_to_do(target: Target) -> None:
    with pytest.raises(FBNError, match=rf"'{target.name}' is not ready: .*--target \S+\.$"):
        ready_target(target.name)


def test_an_unknown_target_lists_those_that_exist() -> None:
    with pytest.raises(FBNError, match="Did you mean 'onnxruntime-cpu'"):
        ready_target("onnxruntime-cp")


def test_the_default_target_is_ready_and_the_cpu_comes_after_the_gpu() -> None:
    assert default_target() is READY[0]
    names = [target.name for target in targets()]
    assert names.index("onnxruntime-cuda") < names.index("onnxruntime-cpu")


def test_openvino_computes_in_fp32_unless_bf16_is_asked() -> None:
    target = next((target for target in READY if target.name == "openvino-cpu"), None)
    if target is None:
        pytest.skip("OpenVINO is not installed")
    model, x = small_network(channels=32, value=0.1003), images()
    expected = ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"x": x})[0]
    with target.open(model, batch=1, threads=1, precision="fp32") as session:
        error = np.abs(session.run({"x": x})["y"] - expected).max() / np.abs(expected).max()
    assert error < 1e-5


def test_importing_the_targets_loads_no_runtime() -> None:
    code = (
        "import sys, fbn_deploy.targets, fbn_deploy.latency.meter, fbn_deploy.latency.profile;"
        "heavy = {'torch', 'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'openvino', 'rich'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    root = Path(__file__).resolve().parents[1]
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_a_run_that_fails_is_one_error() -> None:
    inputs = {"x": np.zeros((1, 1024), np.float32)}
    with ready_target("onnxruntime-cpu").open(too_large(), batch=1, threads=1) as session:
        for run in (session.enqueue, lambda: session.run(inputs)):
            with pytest.raises(FBNError, match=r"does not run on target 'onnxruntime-cpu': .*Tile"):
                run()
