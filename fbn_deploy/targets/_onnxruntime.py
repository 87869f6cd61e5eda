"""What the ONNX Runtime targets share: one session class, its options, its profiler's JSON.

``ORT_ENABLE_ALL``, sequential execution, one inter-op thread, spinning off (a spinning thread
pool takes the core away from everything else on a shared machine), inputs and outputs bound.
ONNX Runtime falls back to the CPU without an error when a provider does not load; ``OrtSession``
asserts the provider that is really used.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError
from fbn_deploy.targets import _opening
from fbn_deploy.targets._protocol import LayerTime

if TYPE_CHECKING:
    import numpy.typing as npt

    from fbn_deploy.targets._protocol import Target

SETTINGS = {
    "graph_optimization": "all",
    "execution": "sequential",
    "spinning": "off",
    "pinning": "off",
    "io_binding": "on",
}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
_ERRORS_ONLY = 3
# What ONNX Runtime appends to a node's name in its profile, and to a node moved to NCHWc layout.
_KERNEL = "_kernel_time"
_NCHWC = "_nchwc"
_PROFILE_WARMUP = 5
# It turns biases of int8 networks into integers, which the CUDA provider cannot turn back.
_NOT_ON_GPUS = ["WeightBiasQuantization"]


def import_problem() -> str | None:
    """Why ``import onnxruntime`` fails here, with the command that mends it; None if it works."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            return (
                "the onnxruntime package is not installed. Install it with pip install onnxruntime"
            )
        return f"onnxruntime does not load ({error}). Reinstall it with pip install onnxruntime"
    return None


class OrtSession:
    """An ONNX Runtime session on one provider. Raises ``FBNError`` like ``Target.open``."""

    def __init__(
        self,
        target: Target,
        model: bytes | Path,
        *,
        batch: int,
        threads: int,
        provider: str,
        provider_options: Mapping[str, str] | None = None,
        device: str = "cpu",
        profile: bool = False,
    ) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
        self._target, self._model, self._device = target, model, device
        self._providers = [(provider, dict(provider_options or {}))]
        self._folder = tempfile.TemporaryDirectory(prefix="fbn-profile-") if profile else None
        try:
            self._ort = self._created(threads, batch)
            used = self._ort.get_providers()[0]
            if used != provider:
                raise FBNError(
                    f"Target {target.name!r} would have run on {used}: {provider} did not load."
                )
            self._bind(batch)
        except BaseException:
            self.close()
            raise

    def _created(self, threads: int, batch: int) -> Any:
        """The runtime's session; made a second time when a free batch has to be filled in."""
        options = self._options(threads)
        session = self._new_session(options)
        free = {
            value.shape[0]
            for value in session.get_inputs()
            if value.shape and isinstance(value.shape[0], str)
        }
        if not free:
            return session
        options = self._options(threads)
        for dimension in free:
            options.add_free_dimension_override_by_name(dimension, batch)
        return self._new_session(options)

    def _new_session(self, options: Any) -> Any:
        import onnxruntime

        source = str(self._model) if isinstance(self._model, Path) else self._model
        try:
            session = onnxruntime.InferenceSession(
                source,
                options,
                providers=self._providers,
                disabled_optimizers=None if self._device == "cpu" else _NOT_ON_GPUS,
            )
            if self._device != "cpu":
                session.disable_fallback()  # to the processor, after an error in a run
            return session
        except Exception as error:  # ONNX Runtime's errors share no class but Exception
            raise _opening.cannot_open(self._target, self._model, error) from error

    def _options(self, threads: int) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        if self._device != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if self._folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._folder.name) / "ort")
        return options

    def _bind(self, batch: int) -> None:
        """Inputs and outputs in the device's memory, so that ``enqueue`` copies nothing."""
        import onnxruntime

        inputs = self._ort.get_inputs()
        self._shapes = {
            value.name: _opening.filled_shape(self._model, value.name, value.shape, batch)
            for value in inputs
        }
        self._dtypes = {value.name: self._dtype(value) for value in inputs}
        self._binding = self._ort.io_binding()
        for name, array in _opening.sample_inputs(self._shapes, self._dtypes).items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, 0)
            self._binding.bind_ortvalue_input(name, value)
        for output in self._ort.get_outputs():
            self._binding.bind_output(output.name, self._device)

    def _dtype(self, value: Any) -> str:
        if value.type not in _DTYPES:
            raise FBNError(
                f"{_opening.model_label(self._model)}: input {value.name!r} is a {value.type}; "
                f"inputs may be {', '.join(sorted(_DTYPES))}."
            )
        return _DTYPES[value.type]

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        feeds = _opening.checked_inputs(inputs, self._shapes, self._dtypes)
        names = [output.name for output in self._ort.get_outputs()]
        try:
            return dict(zip(names, self._ort.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime's errors share no class but Exception
            raise _opening.cannot_run(self._target, self._model, error) from error

    def enqueue(self) -> float | None:
        start_s = time.perf_counter()
        try:
            self._ort.run_with_iobinding(self._binding)
        except Exception as error:
            raise _opening.cannot_run(self._target, self._model, error) from error
        # It returns when the device has finished. A GPU's is told as the device's time, since
        # crowds on the processor's cores and their speed are no matter there.
        return None if self._device == "cpu" else (time.perf_counter() - start_s) * 1e3

    def layers(self, runs: int) -> list[LayerTime]:
        assert self._folder is not None, "layers are profiled in a session opened for profiling"
        for _ in range(_PROFILE_WARMUP + runs):
            self.enqueue()
        events = json.loads(Path(self._ort.end_profiling()).read_bytes())
        return layers_from_events(events, warmup=_PROFILE_WARMUP)

    def close(self) -> None:
        self._ort = self._binding = None
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def layers_from_events(events: list[dict[str, Any]], warmup: int) -> list[LayerTime]:
    """Layers from ONNX Runtime's profiling events, less the first ``warmup`` runs of each."""
    times_us: dict[tuple[str, str], list[float]] = defaultdict(list)
    nodes = [event for event in events if event["cat"] == "Node"]
    for event in sorted(nodes, key=lambda event: event["ts"]):
        if event["name"].endswith(_KERNEL):
            name = event["name"].removesuffix(_KERNEL).removesuffix(_NCHWC)
            times_us[name, event["args"]["op_name"]].append(event["dur"])
    return [
        LayerTime(name, op, _opening.interquartile_mean(times[warmup:]) / 1e3)
        for (name, op), times in times_us.items()
        if len(times) > warmup
    ]
