"""Sessions on TensorRT engines, on a GPU that is played by ``fake_gpu.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from fake_gpu import RUN_MS, Cuda, TensorRt
from onnx.reference import ReferenceEvaluator
from test_targets import images, small_network

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.protocol import QUICK
from fbn_deploy.latency.timing import time_runs
from fbn_deploy.targets._tensorrt.session import TensorRtSession

Opened = Callable[..., tuple[TensorRtSession, Cuda]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    def open_(
        plan: bytes | None = None,
        batch: int = 1,
        profile: bool = False,
        batches: tuple[int, int] = (1, 1),
        **cuda_options: Any,
    ) -> tuple[TensorRtSession, Cuda]:
        cuda = Cuda(**cuda_options)
        monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=cuda))
        plan = small_network(batch="N") if plan is None else plan
        trt: Any = TensorRt(cuda, *batches)
        session = TensorRtSession(trt, plan, label="The engine", batch=batch, profile=profile)
        return session, cuda

    return open_


def expected(model: bytes, x: np.ndarray) -> np.ndarray:
    answer: np.ndarray = ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"x": x})[0]
    return answer


def test_outputs_are_those_of_the_inputs_that_were_given(opened: Opened) -> None:
    session, _ = opened(batch=3, batches=(1, 4))
    assert session.input_shapes == {"x": (3, 3, 8, 8)}
    for seed in (1, 2):
        x = images(3, seed)
        answer = session.run({"x": x})["y"]
        np.testing.assert_allclose(answer, expected(small_network("N"), x), rtol=1e-5)
        session.enqueue()


def test_time_is_the_devices_and_timing_takes_it(opened: Opened) -> None:
    session, _ = opened()
    assert session.enqueue() == pytest.approx(RUN_MS)
    timing = time_runs(session.enqueue, QUICK)
    assert timing.value_ms == pytest.approx(RUN_MS)
    assert timing.p99_ms == pytest.approx(RUN_MS)


def test_runs_are_launches_of_a_graph_where_it_captures(opened: Opened) -> None:
    session, cuda = opened()
    session.enqueue()
    assert (session.uses_graph, cuda.launched) == (True, 1)


def test_a_session_that_cannot_be_captured_runs_without_a_graph(opened: Opened) -> None:
    session, cuda = opened(captures=False)
    x = images()
    np.testing.assert_allclose(session.run({"x": x})["y"], expected(small_network(), x), rtol=1e-5)
    assert (session.uses_graph, cuda.launched) == (False, 0)


@pytest.mark.parametrize("options", [{}, {"profile": True}, {"captures": False}], ids=str)
def test_closing_gives_everything_back_and_twice_is_harmless(
    opened: Opened, options: dict[str, Any]
) -> None:
    session, cuda = opened(**options)
    assert cuda.live
    session.close()
    session.close()
    assert not cuda.live


def test_a_session_that_fails_to_open_gives_everything_back(opened: Opened) -> None:
    with pytest.raises(FBNError, match="cudaErrorMemoryAllocation"):
        opened(memory_bytes=100)
    cuda = sys.modules["cuda.bindings"].runtime
    assert not cuda.live


def test_a_batch_outside_of_the_engine_is_refused(opened: Opened) -> None:
    with pytest.raises(FBNError, match="takes a batch of 2 to 4, and batch 8 was asked"):
        opened(batch=8, batches=(2, 4))
    with pytest.raises(FBNError, match="takes a batch of 1, and batch 2 was asked"):
        opened(batch=2)


def test_an_engine_that_the_runtime_refuses_is_one_error_with_its_reason(opened: Opened) -> None:
    with pytest.raises(FBNError, match="The engine cannot be loaded: Error Code 1: bad magic tag"):
        opened(plan=b"no engine")


def test_layers_bear_the_names_of_nodes_or_their_own(opened: Opened) -> None:
    session, cuda = opened(profile=True)
    layers = {layer.name: layer for layer in session.layers(runs=8)}
    assert not session.uses_graph  # a profiler sees nothing inside a graph
    assert list(layers) == ["Reformatting CopyNode", "stem.conv", "head.pool"]
    assert layers["stem.conv"].op == "CaskConvolution"
    assert layers["stem.conv"].nodes == ("stem.conv", "stem.relu")
    assert layers["stem.conv"].latency_ms == pytest.approx(0.2)
    session.close()
    assert not cuda.live


def test_wrong_inputs_are_named_before_anything_is_copied(opened: Opened) -> None:
    session, _ = opened()
    with pytest.raises(FBNError, match="float64"):
        session.run({"x": images().astype(np.float64)})
