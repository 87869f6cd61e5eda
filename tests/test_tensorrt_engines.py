"""Engine files, and the real parser and builder of TensorRT for RTX, which need no GPU."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper
from test_targets import small_network

from fbn_deploy import plugins
from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.precision import activations, quantized_int8, typed_bf16, typed_fp16
from fbn_deploy.export.ranges import Ranges
from fbn_deploy.files import sha256_of
from fbn_deploy.retrain.network import subnet
from fbn_deploy.supernet.definition import definition
from fbn_deploy.targets import tensorrt_rtx
from fbn_deploy.targets._engines import EngineOptions
from fbn_deploy.targets._tensorrt import engine_file, frames
from fbn_deploy.targets._tensorrt.builder import BuilderProcess
from fbn_deploy.targets._tensorrt.layers import layer_called, layers_from_inspector
from fbn_deploy.targets._tensorrt.messages import Messages
from fbn_deploy.targets._tensorrt.package import TENSORRT_RTX

RTX = tensorrt_rtx.TARGET
PROBLEM = RTX.cannot_build()
needs_builder = pytest.mark.skipif(PROBLEM is not None, reason=f"builds no engines: {PROBLEM}")
HERE = engine_file.Here("tensorrt", "10.16.1", "NVIDIA L4", (8, 9))
STORY: dict[str, Any] = {
    "target": "tensorrt",
    "version": "10.16.1",
    "device": {"gpu": "NVIDIA L4", "compute_capability": [8, 9]},
    "onnx_sha256": "",
    "options": dataclasses.asdict(EngineOptions()),
}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.tensorrt.engine"
    engine_file.save(path, b"plan" * 100, STORY)
    return path


def test_an_engine_that_belongs_here_is_loaded_with_its_story(engine: Path) -> None:
    plan, story = engine_file.load(engine, HERE)
    assert (plan, story["bytes"], story["version"]) == (b"plan" * 100, 400, "10.16.1")


def test_a_truncated_and_a_damaged_engine_are_refused(engine: Path) -> None:
    engine.write_bytes(b"plan" * 99)
    with pytest.raises(FBNError, match="not whole: 396 bytes, and 400 were written"):
        engine_file.load(engine, HERE)
    engine.write_bytes(b"plan" * 99 + b"PLAN")
    with pytest.raises(FBNError, match=r"damaged: .* Build it again with fbn export and --target"):
        engine_file.load(engine, HERE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "11.4.0"}, "built with version 10.16.1, and version 11.4.0 is installed"),
        ({"gpu": "NVIDIA H100", "compute_capability": (9, 0)}, r"this is NVIDIA H100 \(9\.0\)"),
        ({"target": "tensorrt-rtx"}, "engine of target 'tensorrt', not of 'tensorrt-rtx'"),
    ],
    ids=["version", "gpu", "target"],
)
def test_an_engine_from_elsewhere_is_refused(
    engine: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(FBNError, match=said):
        engine_file.load(engine, dataclasses.replace(HERE, **changes))


@pytest.mark.parametrize(
    ("options", "here", "runs"),
    [
        ({"version_compatible": True}, {"version": "10.17.0"}, True),
        ({"version_compatible": True}, {"version": "10.9.0"}, False),
        ({"version_compatible": True}, {"version": "11.0.0"}, False),
        ({"hardware": "same-capability"}, {"gpu": "NVIDIA L40S"}, True),
        ({"hardware": "same-capability"}, {"compute_capability": (8, 6)}, False),
        ({"hardware": "ampere-plus"}, {"compute_capability": (12, 0)}, True),
        ({"hardware": "ampere-plus"}, {"compute_capability": (7, 5)}, False),
        ({"hardware": "this"}, {"gpu": "NVIDIA L40S"}, False),
    ],
    ids=str,
)
def test_compatible_engines_run_where_they_were_built_to(
    options: dict[str, Any], here: dict[str, Any], runs: bool
) -> None:
    story = STORY | {"options": STORY["options"] | options}
    assert (engine_file.foreign(story, dataclasses.replace(HERE, **here)) is None) == runs


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"schema": 1}'])
def test_an_engine_without_its_story_is_refused(engine: Path, content: str) -> None:
    engine_file.story_path(engine).write_text(content)
    with pytest.raises(FBNError, match="engine"):
        engine_file.load(engine, HERE)
    engine_file.story_path(engine).unlink()
    with pytest.raises(FBNError, match=r"no model\.tensorrt\.engine\.json beside it"):
        engine_file.load(engine, HERE)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("options", {}, "other options"),
        ("options", STORY["options"] | {"later": 1}, "other options"),
        ("device", {}, "which GPU"),
    ],
)
def test_a_story_of_another_version_is_refused(
    engine: Path, key: str, value: Any, said: str
) -> None:
    path = engine_file.story_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(FBNError, match=said):
        engine_file.load(engine, HERE)


def test_all_wrong_options_are_named_at_once() -> None:
    with pytest.raises(FBNError, match=r"batch is at least 1.*levels are 0 to 5.*hardware is one"):
        EngineOptions(batch=0, optimization_level=9, hardware="all")


def test_warnings_come_once_and_the_first_error_is_the_reason() -> None:
    messages = Messages()
    for severity, text in [
        ("WARNING", "[half.cpp::round::12] weights out of range"),
        ("WARNING", "[half.cpp::round::12] weights out of range"),
        ("VERBOSE", "chatter"),
        ("ERROR", "IBuilder::buildSerializedNetwork: Error Code 2: OutOfMemory (no more)"),
        ("ERROR", "[x.cpp::y::1] Error Code 1: what followed"),
    ]:
        messages.hear(severity, text)
    assert messages.warnings == ["weights out of range (2 times)"]
    assert messages.reason("none") == "Error Code 2: OutOfMemory (no more)"


def test_the_builder_says_what_the_engine_takes_of_the_device() -> None:
    messages = Messages()
    for text in ("Max Scratch Memory: 1 bytes", "Total Activation Memory: 8194048 bytes",
                 "Total Weights Memory: 816 bytes"):  # fmt: skip
        messages.hear("INFO", text)
    assert messages.memory_bytes == {"activation": 8194048, "weights": 816}


def test_the_inspectors_layers_name_nodes_also_under_the_compilers_names() -> None:
    text = json.dumps(
        {
            "Layers": [
                "bare name",
                {
                    "Name": "stage1_0.mb6_k3.project/Conv_myl0_7",
                    "LayerType": "gemm",
                    "Metadata": "[ONNX Layer: stage1_0/Add]\x1e"
                    "[ONNX Layer: stage1_0.mb6_k3.project/Conv]",
                },
            ]
        }
    )
    bare, layer = layers_from_inspector(text)
    assert bare.main_node() is None
    assert layer.nodes == ("stage1_0/Add", "stage1_0.mb6_k3.project/Conv")
    assert layer.main_node() == "stage1_0.mb6_k3.project/Conv"
    assert layer_called("stage1_0.mb6_k3.project/Conv_myl0_9", [bare, layer]) is layer
    assert layer_called("another", [bare, layer]) is None


@needs_builder
def test_an_engine_is_built_without_a_gpu_and_tells_its_story(tmp_path: Path) -> None:
    model, destination = tmp_path / "small.onnx", tmp_path / "small.tensorrt-rtx.engine"
    model.write_bytes(small_network("N"))
    said: list[str] = []
    report = RTX.engine_from_onnx(
        model, destination, options=EngineOptions(batch=2, max_batch=8), progress=said.append
    )
    plan, story = engine_file.load(
        destination, engine_file.Here(RTX.name, TENSORRT_RTX.version(), None, None)
    )
    assert len(plan) > 1000
    assert story == report.story
    assert story["onnx_sha256"] == sha256_of(model)
    layers = {layer["name"]: layer["nodes"] for layer in story["build"]["layers"]}
    assert ["stem.conv", "stem.relu"] in layers.values()
    assert report.memory_bytes.keys() == {"activation", "weights"}
    assert said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "small.onnx", "small.tensorrt-rtx.engine", "small.tensorrt-rtx.engine.json",
    ]  # fmt: skip


def unknown_operator() -> bytes:
    node = helper.make_node("Tricky", ["x"], ["y"], name="the.odd.one", domain="mine")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "odd",
        [value("x", TensorProto.FLOAT, [1, 2])],
        [value("y", TensorProto.FLOAT, [1, 2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    ).SerializeToString()
    return content


@needs_builder
@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (b"not a model", {}, r"small\.onnx cannot be opened on target 'tensorrt-rtx'"),
        (b"", {}, "cannot be opened"),
        (small_network()[:200], {}, "Failed to parse the ONNX model"),
        (unknown_operator(), {}, r"node 'the\.odd\.one' \(Tricky\)"),
        (small_network(2), {}, "fixed batch of 2, and batch 1 was asked"),
        (small_network(2), {"batch": 2, "max_batch": 4}, "fixed batch of 2, and batch 1 was asked"),
        (small_network(), {"hardware": "ampere-plus"}, "leave --hardware out"),
        (small_network(), {"version_compatible": True}, "leave --version-compatible out"),
    ],
    ids=["text", "nothing", "truncated", "operator", "batch", "max batch", "hardware", "versions"],
)
def test_what_cannot_be_built_is_one_error_and_leaves_nothing(
    tmp_path: Path, content: bytes, options: dict[str, Any], said: str
) -> None:
    model, destination = tmp_path / "small.onnx", tmp_path / "small.engine"
    model.write_bytes(content)
    with pytest.raises(FBNError, match=said):
        RTX.engine_from_onnx(model, destination, options=EngineOptions(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


@pytest.mark.skipif(RTX.missing() is None, reason="there is a GPU that runs these engines")
def test_without_a_driver_an_engine_is_refused_before_any_runtime_is_touched(
    tmp_path: Path,
) -> None:
    engine_file.save(tmp_path / "a.engine", b"whatever", STORY)
    with pytest.raises(FBNError, match="'tensorrt-rtx' is not ready: "):
        RTX.open(tmp_path / "a.engine", batch=1, threads=1)


@needs_builder
def test_a_builder_that_is_killed_is_one_error_and_the_next_build_works() -> None:
    builder = BuilderProcess(TENSORRT_RTX)
    builder.build(small_network(), EngineOptions())
    process = builder._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    killer = threading.Timer(0.3, process.kill)
    killer.start()
    with pytest.raises(FBNError, match=r"builder was killed, most likely because memory ran out"):
        builder.build(small_network(), EngineOptions())
    assert builder.build(small_network(), EngineOptions()).plan
    builder.stop()


KILLED = """
import sys
from pathlib import Path
from fbn_deploy.targets import tensorrt_rtx
def started(text):
    print(tensorrt_rtx.TARGET._builder._process.pid, flush=True)
tensorrt_rtx.TARGET.engine_from_onnx(Path(sys.argv[1]), Path(sys.argv[2]), progress=started)
"""


def big_network() -> bytes:
    """Wide convolutions that take the builder seconds."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(40):
        weight = rng.standard_normal((192, 192, 3, 3)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1] * 4))
    value = helper.make_tensor_value_info
    shape = [1, 192, 8, 8]
    graph = helper.make_graph(
        nodes,
        "big",
        [value("x0", TensorProto.FLOAT, shape)],
        [value("x40", TensorProto.FLOAT, shape)],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    ).SerializeToString()
    return content


@needs_builder
@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_killed_in_the_middle_of_a_build_nothing_is_left_and_no_builder_goes_on(
    tmp_path: Path,
) -> None:
    model = tmp_path / "big.onnx"
    model.write_bytes(big_network())
    command = [sys.executable, "-c", KILLED, str(model), str(tmp_path / "big.engine")]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    worker = int(program.stdout.readline())
    program.kill()
    program.wait()
    deadline = time.monotonic() + 10
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)
    assert [path.name for path in tmp_path.iterdir()] == ["big.onnx"]


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_frames_that_break_off_are_the_end_of_the_other_side(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    with path.open("wb") as stream:
        frames.send(stream, {"a": 1}, b"content")  # type: ignore[arg-type]
    whole = path.read_bytes()
    with path.open("rb") as stream:
        assert frames.receive(stream) == ({"a": 1}, b"content")  # type: ignore[arg-type]
        assert frames.receive(stream) is None  # type: ignore[arg-type]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with path.open("rb") as stream:
            assert frames.receive(stream) is None  # type: ignore[arg-type]


# Whichever of these options a space has, to keep its networks small.
SMALL = {"width": 0.25, "depth": 1, "channels": 8, "cells": 1}
SMALLEST = {"darts": {"cells": 3}}


@functools.cache
def random_network(space: str) -> onnx_ir.Model:
    """The folded graph of a random architecture of a small version of ``space``."""
    options = inspect.signature(plugins.load("searchspaces", space, "space").network).parameters
    small = {name: SMALL[name] for name in SMALL if name in options} | SMALLEST.get(space, {})
    chosen = definition(space, 32, small)
    architectures = chosen.search_space(chosen.network(4, seed=0))
    architecture = architectures.sample(random.Random(0))
    network = subnet(chosen, architecture, 4, fair_bn=True, seed=0)
    return fold_affine(onnx_from_module(network, 32))[0]


def int8(model: onnx_ir.Model) -> onnx_ir.Model:
    """With ranges that no calibration found: what is built matters here, not what it computes."""
    amax = dict.fromkeys(activations(model), 3.0)
    return quantized_int8(model, Ranges(amax, {}, "made up", "", "", 1))


PRECISIONS: dict[str, Callable[[onnx_ir.Model], onnx_ir.Model]] = {
    "fp32": lambda model: model,
    "fp16": typed_fp16,
    "bf16": typed_bf16,
    "int8": int8,
}


@needs_builder
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("space", plugins.names("searchspaces"))
def test_a_random_architecture_of_every_space_builds_in_every_precision(
    space: str, precision: str, tmp_path: Path
) -> None:
    model = PRECISIONS[precision](random_network(space).clone())
    onnx_ir.save(model, tmp_path / "model.onnx")
    report = RTX.engine_from_onnx(
        tmp_path / "model.onnx", tmp_path / "model.engine", precision=precision
    )
    named = {node for layer in report.story["build"]["layers"] for node in layer["nodes"]}
    convolutions = {node.name for node in model.graph if node.op_type == "Conv"}
    assert len(named & convolutions) >= 0.8 * len(convolutions), convolutions - named
    assert report.warnings == []


@needs_builder
def test_unsigned_activations_are_refused(tmp_path: Path) -> None:
    model = random_network("mobilenet").clone()
    ranges = Ranges(dict.fromkeys(activations(model), 3.0), {}, "made up", "", "", 1)
    onnx_ir.save(quantized_int8(model, ranges, unsigned=True), tmp_path / "model.onnx")
    assert RTX.unsigned_activations is False
    with pytest.raises(FBNError):
        RTX.engine_from_onnx(tmp_path / "model.onnx", tmp_path / "model.engine", precision="int8")
