"""The target on a GPU that is played: what is built, what is taken as it was delivered, for whom
timings are kept."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import Cuda, Engine, TensorRt
from rich.console import Console
from test_targets import images, small_network
from test_tensorrt_engines import needs_builder
from test_tensorrt_session import expected

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.latency.profile import NetworkProfile, profile_network
from fbn_deploy.latency.table import profile_table
from fbn_deploy.latency.throughput import measure_throughput
from fbn_deploy.targets import _cuda, ready_target
from fbn_deploy.targets._engines import EngineOptions
from fbn_deploy.targets._tensorrt.builder import BuilderProcess, BuiltEngine
from fbn_deploy.targets._tensorrt.package import TENSORRT_RTX, Package
from fbn_deploy.targets._tensorrt.target import TensorRtTarget
from fbn_deploy.targets._tensorrt.timing_cache import TimingCache, cache_path

PACKAGE = Package("played_trt", "TensorRT", "Install it", False, False, True)
LISTED = SimpleNamespace(SM80=1, SM89=2, SM120=3)


class PlayedBuilder:
    """Engines are the ONNX models themselves; counts how many it built."""

    built = 0
    timing_cache: Path | None = None

    def build(self, model: bytes | Path, options: EngineOptions, **said: Any) -> BuiltEngine:
        self.built += 1
        self.timing_cache = said["timing_cache"]
        plan = model.read_bytes() if isinstance(model, Path) else model
        return BuiltEngine(plan, {"seconds": 0.1, "warnings": [], "layers": []})


def played_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRtTarget:
    """The target ``tensorrt`` with all that it asks about the machine."""
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=cuda))
    monkeypatch.setitem(sys.modules, "played_trt", TensorRt(cuda))
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path / "cache"))
    for name, value in {
        "driver_problem": None, "device_name": "NVIDIA L4", "compute_capability": (8, 9),
        "driver_version": "13.0", "driver_release": "580.95",
    }.items():  # fmt: skip
        monkeypatch.setattr(_cuda, name, lambda value=value: value)
    target = TensorRtTarget(PACKAGE, "tensorrt", "played", 1)
    target.__dict__["_builder"] = PlayedBuilder()
    return target


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRtTarget:
    return played_target(monkeypatch, tmp_path)


def test_a_model_is_built_through_the_timing_cache_and_run(
    target: TensorRtTarget, tmp_path: Path
) -> None:
    x = images()
    with target.open(small_network(), batch=1, threads=1) as session:
        np.testing.assert_allclose(
            session.run({"x": x})["y"], expected(small_network(), x), rtol=1e-5
        )
    assert target._builder.timing_cache.parent == tmp_path / "cache" / "played_trt"  # type: ignore[union-attr]


def test_the_engine_that_was_delivered_is_the_one_that_is_measured(
    target: TensorRtTarget, tmp_path: Path
) -> None:
    model, builder = tmp_path / "model.onnx", target._builder
    model.write_bytes(small_network())
    target.engine_from_onnx(model, target.engine_path(model))
    assert builder.built == 1  # type: ignore[attr-defined]
    target.open(model, batch=1, threads=1).close()
    target.open(target.engine_path(model), batch=1, threads=1).close()
    assert builder.built == 1  # type: ignore[attr-defined]
    model.write_bytes(small_network(value=0.2))
    target.open(model, batch=1, threads=1).close()
    assert builder.built == 2  # type: ignore[attr-defined]


def test_a_latency_knows_how_the_engine_was_built_that_it_is_of(
    target: TensorRtTarget, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(small_network())
    assert target.settings_of(model, 1) == target.settings
    options = EngineOptions(optimization_level=0, version_compatible=True)
    target.engine_from_onnx(model, target.engine_path(model), options=options)
    built = {"optimization_level": "0", "version_compatible": "yes"}
    for each in (model, target.engine_path(model)):
        assert target.settings_of(each, 1) == {**target.settings, **built}
        meter = LatencyMeter(target, batch=1)
        assert meter.measure(each).conditions.settings == {**target.settings, **built}
    assert target.settings_of(model, 2) == target.settings  # the engine takes no such batch


def test_profile_and_throughput_say_the_device_memory(
    target: TensorRtTarget, tmp_path: Path
) -> None:
    profile = profile_network(small_network(), target, protocol="quick")
    assert profile.as_json()["device_memory_bytes"] == Engine.device_memory_size_v2 == 4096
    profile.save(tmp_path / "profile.json")
    assert NetworkProfile.load(tmp_path / "profile.json") == profile
    assert "0.0 MB of device memory for intermediate results" in shown(profile)
    found = measure_throughput(small_network(), target, threads=1, batches=(1,))
    assert found.as_json()["rates"][0]["device_memory_bytes"] == 4096
    assert "device MB" in found.text()


def test_on_the_processor_nothing_is_said_of_device_memory() -> None:
    cpu = ready_target("onnxruntime-cpu")
    profile = profile_network(small_network(), cpu, protocol="quick")
    assert profile.device_memory_bytes is None
    assert "device memory" not in shown(profile)
    assert "device MB" not in measure_throughput(small_network(), cpu, threads=1).text()


def shown(profile: NetworkProfile) -> str:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(profile_table(profile))
    return console.export_text()


def test_an_engine_without_its_story_is_not_taken_for_a_model(
    target: TensorRtTarget, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(small_network())
    target.engine_path(model).write_bytes(b"killed before its story was written")
    target.open(model, batch=1, threads=1).close()
    assert target._builder.built == 1  # type: ignore[attr-defined]


def test_an_engine_of_another_gpu_is_not_taken_for_a_model_and_refused_by_name(
    target: TensorRtTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(small_network())
    target.engine_from_onnx(model, target.engine_path(model))
    monkeypatch.setattr(_cuda, "device_name", lambda: "NVIDIA A10")
    with pytest.raises(FBNError, match=r"was built for NVIDIA L4 .* and this is NVIDIA A10"):
        target.open(target.engine_path(model), batch=1, threads=1)
    target.open(model, batch=1, threads=1).close()
    assert target._builder.built == 2  # type: ignore[attr-defined]


def test_a_gpu_that_the_package_does_not_know_is_said_with_those_that_it_knows(
    target: TensorRtTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert target.missing() is None
    sys.modules["played_trt"].ComputeCapability = LISTED  # type: ignore[attr-defined]
    assert target.missing() is None
    monkeypatch.setattr(_cuda, "compute_capability", lambda: (9, 0))
    assert r"capability 9.0); it runs on 8.0, 8.9, 12.0" in str(target.missing())
    with pytest.raises(FBNError, match="is not ready: TensorRT 11"):
        target.open(small_network(), batch=1, threads=1)


def test_timings_are_kept_apart_by_gpu_version_driver_and_flags(
    target: TensorRtTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = target._cache("timing", EngineOptions())
    assert plain == target._cache("timing", EngineOptions(batch=4))
    others = {target._cache("timing", EngineOptions(hardware="ampere-plus"))}
    others.add(target._cache("timing", EngineOptions(version_compatible=True)))
    for name, value in (("device_name", "NVIDIA A10"), ("driver_release", "581.0")):
        with monkeypatch.context() as patch:
            patch.setattr(_cuda, name, lambda value=value: value)
            others.add(target._cache("timing", EngineOptions()))
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["played_trt"], "__version__", "10.16.1")
        others.add(target._cache("timing", EngineOptions()))
    assert len(others - {plain}) == 5


def test_a_timing_cache_that_cannot_be_written_fails_no_build(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    TimingCache(tmp_path / "file" / "cache").add(SimpleNamespace(), b"learnt")  # type: ignore[arg-type]


@needs_builder
def test_the_timing_cache_is_written_whole_and_a_damaged_one_does_no_harm(tmp_path: Path) -> None:
    path = cache_path(tmp_path, {"gpu": "none"}, "timing")
    builder = BuilderProcess(TENSORRT_RTX)
    builder.build(small_network(), EngineOptions(), timing_cache=path)
    assert path.stat().st_size > 0
    builder.build(small_network(channels=8), EngineOptions(), timing_cache=path)
    path.write_bytes(b"damaged")
    assert builder.build(small_network(), EngineOptions(), timing_cache=path).plan
    builder.stop()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_builder_that_runs_out_of_memory_is_one_error_and_the_older_engine_stays(
    target: TensorRtTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(small_network())
    engine = target.engine_path(model)
    target.engine_from_onnx(model, engine)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def fails(*_: Any, **__: Any) -> BuiltEngine:
        raise FBNError("Error Code 2: OutOfMemory (requested size was 8 GB)")

    monkeypatch.setattr(target._builder, "build", fails)
    model.write_bytes(small_network(value=0.3))
    with pytest.raises(FBNError, match=r"model\.onnx was not built on target 'tensorrt': .* 8 GB"):
        target.engine_from_onnx(model, engine)
    before[model] = model.read_bytes()
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
