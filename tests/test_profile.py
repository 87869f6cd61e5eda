"""The profile: whole and layers, under the names of the model's nodes, as JSON and as a table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import onnx
import pytest
from report_runs import searched, started
from rich.console import Console
from test_latency_cache import record
from test_targets import READY, small_network

from fbn_deploy.commands.profile import command as profile_command
from fbn_deploy.errors import FBNError, NothingFitsError
from fbn_deploy.latency.profile import Layer, NetworkProfile, named_layers, profile_network
from fbn_deploy.latency.record import LatencyRecord
from fbn_deploy.latency.table import profile_table, story
from fbn_deploy.pipeline import profile as stage
from fbn_deploy.targets import LayerTime, Target, default_target, target_named
from fbn_deploy.targets.openvino_cpu import OpenVinoCpu

PROFILE = NetworkProfile(
    record(value_ms=2.0),
    (
        Layer("stem.conv[3x3]", "Conv", False, 1.5, 0.75),
        Layer("reorder", "ReorderOutput", True, 0.5, 0.25),
    ),
    runs=20,
)


def test_a_file_is_profiled_where_it_was_searched_for_if_that_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime runs no bf16, so that such a file of a search there is timed elsewhere."""
    monkeypatch.setattr(OpenVinoCpu, "missing", lambda self: None)
    run = searched(started(tmp_path))
    for name in ("model.onnx", "model.bf16.onnx"):
        (run / name).write_bytes(small_network())
    opened: list[tuple[str, str]] = []

    def profiled(model: Path, target: Target, **said: object) -> NetworkProfile:
        opened.append((model.name, target.name))
        return PROFILE

    monkeypatch.setattr(stage, "profile_network", profiled)
    stage.profile(run)
    stage.profile(run, precision="bf16")
    elsewhere = default_target("bf16").name
    assert opened == [("model.onnx", "onnxruntime-cpu"), ("model.bf16.onnx", elsewhere)]


def test_of_two_int8_files_the_one_that_was_written_for_the_target_is_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = searched(started(tmp_path))
    for name in ("model.int8.onnx", "model.int8-signed.onnx"):
        (run / name).write_bytes(small_network())
    opened: list[str] = []

    def profiled(model: Path, target: Target, **said: object) -> NetworkProfile:
        opened.append(model.name)
        return PROFILE

    monkeypatch.setattr(stage, "profile_network", profiled)
    monkeypatch.setattr(stage, "ready_target", target_named)
    for target in ("onnxruntime-cpu", "tensorrt", "onnxruntime-cuda"):
        stage.profile(run, target=target, precision="int8")
    assert opened == ["model.int8.onnx", "model.int8-signed.onnx", "model.int8.onnx"]
    assert (run / "profile.int8-signed.json").exists()


def test_a_fused_kernel_bears_the_name_of_its_convolution() -> None:
    """ONNX Runtime names a fused kernel after the last value that it writes: the Relu's."""
    times = [
        LayerTime("r", "Conv", 3.0),
        LayerTime("reorder_7", "ReorderOutput", 0.5),
        LayerTime("head.pool", "GlobalAveragePool", 0.5),
    ]
    conv, reorder, pool = named_layers(times, onnx.load_from_string(small_network()))
    assert (conv.name, conv.op, conv.added, conv.share) == ("stem.conv", "Conv", False, 0.75)
    assert (reorder.name, reorder.added) == ("reorder_7", True)
    assert (pool.name, pool.op) == ("head.pool", "GlobalAveragePool")


def test_a_node_without_a_name_is_called_after_its_output() -> None:
    model = onnx.load_from_string(small_network())
    for node in model.graph.node:
        node.name = ""
    (layer,) = named_layers([LayerTime("c", "Conv", 1.0)], model)
    assert layer.name == "c"


@pytest.mark.parametrize("target", READY, ids=lambda target: target.name)
def test_every_target_profiles_whole_and_layers(target: Target, tmp_path: Path) -> None:
    model = small_network("N", channels=256)
    profile = profile_network(model, target, batch=2, protocol="quick")
    assert profile.record.conditions.inputs == {"x": (2, 3, 8, 8)}
    assert profile.record.value_ms > 0
    profile.save(tmp_path / "profile.json")
    assert NetworkProfile.load(tmp_path / "profile.json") == profile
    if profile.without_layers:
        pytest.skip(profile.without_layers)
    names = [layer.name for layer in profile.layers if not layer.added]
    assert "stem.conv" in names
    assert sum(layer.share for layer in profile.layers) == pytest.approx(1.0)


def test_a_profile_of_a_file_says_its_hash_and_an_older_one_says_none(tmp_path: Path) -> None:
    model, path = tmp_path / "model.onnx", tmp_path / "profile.json"
    model.write_bytes(small_network())
    profile = profile_network(model, READY[0], protocol="quick")
    assert profile.onnx_sha256 == hashlib.sha256(small_network()).hexdigest()
    profile.save(path)
    assert NetworkProfile.load(path) == profile
    content = json.loads(path.read_text())
    del content["onnx_sha256"]
    path.write_text(json.dumps(content))
    assert NetworkProfile.load(path).onnx_sha256 == ""


def test_a_profile_is_held_against_a_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(small_network())
    profile_command(model, latency_budget="10s", json_output=True)
    said = capsys.readouterr()
    assert "Within the budget of 10000 ms." in said.err
    assert json.loads(said.out)["latency"]["value_ms"] > 0
    with pytest.raises(NothingFitsError, match=r"model.onnx takes .* over the budget of 0.00001 m"):
        profile_command(model, latency_budget=f"{READY[0].name}:0.01us")
    assert f"{READY[0].name} on" in capsys.readouterr().out
    with pytest.raises(FBNError, match="one on openvino-cpu, and --target is onnxruntime-cpu"):
        profile_command(model, latency_budget="openvino-cpu:1ms", target="onnxruntime-cpu")
    with pytest.raises(FBNError, match="not one of throughput"):
        profile_command(model, latency_budget="1ms", throughput=True)


def test_the_json_has_a_schema_number_the_story_and_the_layers(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    PROFILE.save(path)
    value = json.loads(path.read_text())
    assert value["schema"] == 1
    assert value["latency"]["conditions"]["target"] == "onnxruntime-cpu"
    assert value["latency"]["p99_ms"] == 2.0
    assert value["layers_sum_ms"] == 2.0
    assert value["layers"][0]["name"] == "stem.conv[3x3]"


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"schema": 99}', "no JSON"])
def test_what_is_no_profile_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(FBNError, match=r"profile\.json"):
        NetworkProfile.load(path)


def test_the_table_shows_every_layer_its_bar_and_the_sum_against_the_whole() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(profile_table(PROFILE))
    text = console.export_text()
    first, second = (
        next(line for line in text.splitlines() if line.startswith(name))
        for name in ("stem.conv[3x3]", "reorder")
    )
    assert "75.0%" in first
    assert first.count("█") == 3 * second.count("█") == 24
    assert "ReorderOutput (added)" in second
    assert "100% of the whole (2.000 ms)" in text
    assert "Undisturbed" in text


def test_the_story_says_on_which_cores_it_ran() -> None:
    pinned = dataclasses.replace(PROFILE.record, cores=(1, 3))
    assert any("threads 1 on cores 1, 3" in line for line in story(pinned))
    assert LatencyRecord.from_json(pinned.as_json()) == pinned
