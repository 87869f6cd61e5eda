"""What the ONNX Runtime targets share: one session class, its options, its profiler's JSON.

``ORT_ENABLE_ALL``, sequential execution, one inter-op thread, spinning off (a spinning thread
pool takes the core away from everything else on a shared machine), inputs and outputs bound.
ONNX Runtime falls back to the CPU without an error when a provider does not load; ``OrtSession``
asserts the provider that is really used.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError
from fbn_deploy.targets import _opening
from fbn_deploy.targets._protocol import LayerTime, NoLayerTimes

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
_KERNEL = "_kernel_time"  # what a node's name ends with in a profile
_Kernel = tuple[str, str]  # name and op
# What ONNX Runtime puts around names of nodes and values: around a value that is float32 where the
# model has it in 16 bits, in NCHWc layout (where a Mul or a BatchNormalization is a convolution),
# and around a second node of a name.
_WIDENED = "InsertedPrecisionFreeCast_"
_AROUND = re.compile(
    rf"(?:{_WIDENED})?(?P<name>.*?)(?:(?P<op>_mul|_bn)?_nchwc)?(?:_token_\d+)?", re.DOTALL
)
_MOVED = {"_mul": "Mul", "_bn": "BatchNormalization"}
_BEFORE = re.compile("^(?:Fused|QLinear|Nhwc)+")  # and before an ONNX op
_PROFILE_WARMUP = 5
_GRAPH = "optimized.onnx"  # in the folder of the profile
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
        if self._folder is not None and self._device == "cpu":
            options.optimized_model_filepath = str(Path(self._folder.name) / _GRAPH)
            beside = "session.optimized_model_external_initializers_file_name"
            options.add_session_config_entry(beside, "weights")  # a file of ONNX ends at 2 GB
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
        import onnx

        assert self._folder is not None, "layers are profiled in a session opened for profiling"
        for _ in range(_PROFILE_WARMUP + runs):
            self.enqueue()
        events = json.loads(Path(self._ort.end_profiling()).read_bytes())
        if self._device != "cpu":
            return gpu_layers_from_events(events, _PROFILE_WARMUP)
        graph = onnx.load(Path(self._folder.name) / _GRAPH, load_external_data=False).graph
        written = [(node.op_type, node.output[0]) for node in graph.node]
        return layers_from_events(events, _PROFILE_WARMUP, written)

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


def layers_from_events(
    events: list[dict[str, Any]], warmup: int, graph: Sequence[tuple[str, str]] = ()
) -> list[LayerTime]:
    """Layers from ONNX Runtime's profiling events, less the first ``warmup`` runs of each.

    ``graph`` is the optimized graph that ran, as (op, first output) of its nodes in their order:
    a node without a name is called after its output.
    """
    kernels = [event for event in events if event["cat"] == "Node" and _is_kernel(event)]
    kernels.sort(key=lambda event: event["ts"])
    times_us: dict[_Kernel, list[float]] = defaultdict(list)
    for event in kernels:
        times_us[_kernel(event)].append(event["dur"])
    ran = [_kernel(event) for event in kernels[: len(graph)]]
    if [op for _, op in ran] != [op for op, _ in graph]:  # it has graphs within nodes
        return _layers(times_us, warmup, {})
    values = [value for _, value in graph]
    return _layers(times_us, warmup, dict(zip(ran, values, strict=True)))


def gpu_layers_from_events(events: list[dict[str, Any]], warmup: int) -> list[LayerTime]:
    """The same from the times of the kernels on the GPU, which a node may have several of: they
    stand behind the event of their node, which ends when they are launched.

    Not run on a GPU: that a kernel names its node's event ``parent_name`` was not seen. Raises
    ``NoLayerTimes`` where no kernel is found by it.
    """
    times_us: dict[_Kernel, list[float]] = defaultdict(list)
    latest: dict[str, list[float]] = {}
    for event in events:
        if event["cat"] == "Node" and _is_kernel(event):
            latest[event["name"]] = times_us[_kernel(event)]
            latest[event["name"]].append(0.0)
        elif event["cat"] == "Kernel" and event["args"].get("parent_name") in latest:
            latest[event["args"]["parent_name"]][-1] += event["dur"]
    on_gpu = {kernel: times for kernel, times in times_us.items() if any(times)}
    if not on_gpu:
        raise NoLayerTimes(
            "This build of ONNX Runtime gives no times of layers on the GPU: it was built without "
            "CUDA profiling (CUPTI). The latency of the whole is the GPU's; the target tensorrt "
            "gives times of layers."
        )
    return _layers(on_gpu, warmup, {})


def _is_kernel(event: Mapping[str, Any]) -> bool:
    return bool(event["name"].endswith(_KERNEL))


def _kernel(event: Mapping[str, Any]) -> _Kernel:
    return event["name"].removesuffix(_KERNEL), event["args"]["op_name"]


def _layers(
    times_us: Mapping[_Kernel, Sequence[float]], warmup: int, values: Mapping[_Kernel, str]
) -> list[LayerTime]:
    return [
        _layer(*kernel, _opening.interquartile_mean(times[warmup:]) / 1e3, values.get(kernel))
        for kernel, times in times_us.items()
        if len(times) > warmup
    ]


def _layer(name: str, op: str, latency_ms: float, value: str | None) -> LayerTime:
    if value is not None and re.fullmatch(rf"{op}_\d+", name):
        name = value.removeprefix(_WIDENED)
    around = _AROUND.fullmatch(name)
    assert around is not None, "The pattern takes any name."
    computes = _MOVED.get(around["op"] or "", _BEFORE.sub("", op))
    aliases = () if op == "Cast" else (around["name"],)
    return LayerTime(name, op, latency_ms, aliases=aliases, computes=(computes,))
