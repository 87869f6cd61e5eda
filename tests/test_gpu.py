"""What only a machine with an NVIDIA GPU can show (``make test-gpu``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from test_targets import images, small_network

from fbn_deploy.errors import FBNError
from fbn_deploy.targets import EngineBuilder, EngineOptions, Target, ready_target, targets
from fbn_deploy.targets._cuda import driver_problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(driver_problem() is not None, reason=f"no GPU: {driver_problem()}"),
]
BUILDERS = [target for target in targets() if isinstance(target, EngineBuilder)]
every_builder = pytest.mark.parametrize("target", BUILDERS, ids=lambda target: target.name)


def ready(target: Target) -> None:
    if problem := target.missing():
        pytest.skip(f"{target.name}: {problem}")


def test_onnxruntime_cuda_is_ready() -> None:
    assert ready_target("onnxruntime-cuda").missing() is None


@every_builder
def test_an_engine_of_dynamic_batch_is_delivered_and_runs(
    target: EngineBuilder, tmp_path: Path
) -> None:
    ready(target)
    model = tmp_path / "small.onnx"
    model.write_bytes(small_network("N"))
    engine = target.engine_path(model)
    target.engine_from_onnx(model, engine, options=EngineOptions(batch=2, max_batch=8))
    for batch in (1, 8):
        x = images(batch)
        expected = ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})[0]
        with target.open(engine, batch=batch, threads=1) as session:
            np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
            assert session.uses_graph  # type: ignore[attr-defined]
            assert session.device_memory_bytes >= 0  # type: ignore[attr-defined]
    with pytest.raises(FBNError, match="takes a batch of 1 to 8"):
        target.open(engine, batch=9, threads=1)


@every_builder
def test_a_truncated_engine_is_refused_before_it_is_loaded(
    target: EngineBuilder, tmp_path: Path
) -> None:
    ready(target)
    model, engine = tmp_path / "small.onnx", tmp_path / "small.engine"
    model.write_bytes(small_network())
    target.engine_from_onnx(model, engine)
    engine.write_bytes(engine.read_bytes()[:-10])
    with pytest.raises(FBNError, match="is not whole"):
        target.open(engine, batch=1, threads=1)


def test_builds_share_one_timing_cache_that_grows_by_what_they_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = next(builder for builder in BUILDERS if builder.name == "tensorrt")
    ready(target)
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path))
    model, sizes = tmp_path / "small.onnx", [0]
    for channels in (64, 32):
        model.write_bytes(small_network(channels=channels))
        target.engine_from_onnx(model, tmp_path / "small.engine")
        (cache,) = (tmp_path / "tensorrt").glob("*.timing")
        sizes.append(cache.stat().st_size)
    assert sizes == sorted(set(sizes)), "Each network adds timings of its own."
