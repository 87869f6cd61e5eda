"""ONNX Runtime on a GPU without one: nothing runs on the processor instead, and all is bound
in device memory. The runtime is recorded; ``test_targets.py`` runs it where there is a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from test_targets import small_network

from fbn_deploy.errors import FBNError
from fbn_deploy.targets.onnxruntime_cuda import TARGET

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Recorded:
    """A session on the processor that says it ran elsewhere, and what was asked of it."""

    def __init__(self, used: str) -> None:
        self.used = used
        self.options: Any = None
        self.asked_providers: list[str] = []
        self.fallback = True
        self.inputs: dict[str, str] = {}  # name → where it lies
        self.outputs: dict[str, str] = {}
        self.runs = 0

    def __call__(self, source: bytes, options: Any, *, providers: Any, **rest: Any) -> Recorded:
        self.options = options
        self.asked_providers = [name for name, _ in providers]
        self._session = self._session_class(source, providers=[CPU])
        return self

    _session_class = onnxruntime.InferenceSession

    def get_providers(self) -> list[str]:
        return [self.used, CPU]

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def disable_fallback(self) -> None:
        self.fallback = False

    def io_binding(self) -> Any:
        return SimpleNamespace(
            bind_ortvalue_input=self.inputs.__setitem__, bind_output=self.outputs.__setitem__
        )

    def run_with_iobinding(self, binding: Any) -> None:
        self.runs += 1


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What stands for the runtime; it says that CUDA was used unless told otherwise."""
    session = Recorded(CUDA)

    def placed(array: np.ndarray, device: str, number: int) -> str:
        return f"{device}:{number}"

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", placed)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    return session


def test_another_provider_than_was_asked_for_is_refused(recorded: Recorded) -> None:
    recorded.used = CPU
    with pytest.raises(FBNError, match=f"would have run on {CPU}: {CUDA} did not load"):
        TARGET.open(small_network("N"), batch=1, threads=1)


def test_no_node_and_no_run_falls_back_to_the_processor(recorded: Recorded) -> None:
    TARGET.open(small_network("N"), batch=1, threads=1)
    assert recorded.asked_providers == [CUDA]
    disabled = recorded.options.get_session_config_entry("session.disable_cpu_ep_fallback")
    assert disabled == "1"
    assert not recorded.fallback


def test_inputs_and_outputs_lie_on_the_device_and_its_time_is_told(recorded: Recorded) -> None:
    session = TARGET.open(small_network("N"), batch=2, threads=1)
    assert recorded.inputs == {"x": "cuda:0"}
    assert set(recorded.outputs.values()) == {"cuda"}
    elapsed_ms = session.enqueue()
    assert elapsed_ms is not None
    assert recorded.runs == 1


@pytest.mark.skipif(TARGET.missing() is None, reason="there is a GPU")
def test_without_a_gpu_the_runtime_itself_does_not_open_a_network() -> None:
    with pytest.raises(FBNError, match="'onnxruntime-cuda'"):
        TARGET.open(small_network(), batch=1, threads=1)
