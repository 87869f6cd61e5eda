"""An engine on the GPU, ready to run.

Timing is what ``trtexec`` does by default: inputs lie in device memory, the work goes to a stream
of its own, as a CUDA graph where it can be captured, and device events around it tell the time;
transfers are not in it.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError
from fbn_deploy.files import write_bytes
from fbn_deploy.targets import _opening
from fbn_deploy.targets._protocol import LayerTime
from fbn_deploy.targets._tensorrt import api
from fbn_deploy.targets._tensorrt.device import Buffer, Stream
from fbn_deploy.targets._tensorrt.layers import layer_called, layers_from_inspector
from fbn_deploy.targets._tensorrt.messages import Messages, logger
from fbn_deploy.targets._tensorrt.package import TensorRt

if TYPE_CHECKING:
    import numpy.typing as npt

_PROFILE_WARMUP = 5


class TensorRtSession:
    """``plan``, deserialised, with a batch and with its memory. Raises ``FBNError`` when the
    runtime refuses it, when it does not take the batch, or when the GPU's memory is short."""

    def __init__(
        self,
        trt: TensorRt,
        plan: bytes,
        *,
        label: str,
        batch: int,
        profile: bool,
        version_compatible: bool = False,
        runtime_cache: Path | None = None,
    ) -> None:
        self._trt, self._label, self._profiled = trt, label, profile
        self._messages = Messages()
        self._log = logger(trt, self._messages)
        self._buffers: dict[str, Buffer] = {}
        self._stream: Stream | None = None
        self._engine: api.ICudaEngine | None = None
        self._context: api.IExecutionContext | None = None
        runtime = trt.Runtime(self._log)
        if version_compatible:
            runtime.engine_host_code_allowed = True
        self._runtime: api.Runtime | None = runtime
        self._cache_path = runtime_cache
        self._cache: Any = None
        try:
            self._engine = self._deserialised(runtime, plan)
            self._context = self._created_context(self._engine)
            self._bind(self._engine, self._context, batch)
            self._graph = self._warmed_up()
        except BaseException:
            self.close()
            raise

    def _deserialised(self, runtime: api.Runtime, plan: bytes) -> api.ICudaEngine:
        if problem := self._invalid(runtime, plan):
            raise FBNError(f"{self._label} does not run here: {problem}. Build it again here.")
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = self._messages.reason("the runtime gave no reason")
            raise FBNError(f"{self._label} cannot be loaded: {reason}.")
        return engine

    def _invalid(self, runtime: api.Runtime, plan: bytes) -> str | None:
        """What TensorRT-RTX has against the engine, from its header; TensorRT has no such call."""
        if not hasattr(runtime, "get_engine_validity"):
            return None
        validity, diagnostics = runtime.get_engine_validity(plan)
        if validity.name != "INVALID":
            return None
        known: Any = getattr(self._trt, "EngineInvalidityDiagnostics", None)
        causes = getattr(known, "__members__", {}).items()
        found = [name.replace("_", " ").lower() for name, bit in causes if diagnostics & int(bit)]
        return ", ".join(found) or self._messages.reason("the runtime gave no reason")

    def _created_context(self, engine: api.ICudaEngine) -> api.IExecutionContext:
        """The context; with TensorRT-RTX, one that remembers the kernels that it compiles."""
        create: Any = engine.create_execution_context
        config: Any = getattr(engine, "create_runtime_config", lambda: None)()
        if self._cache_path is not None and hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            with contextlib.suppress(OSError):
                self._cache.deserialize(self._cache_path.read_bytes())
            config.set_runtime_cache(self._cache)
            context: api.IExecutionContext | None = create(config)
        else:
            context = create()
        if context is None:
            reason = self._messages.reason("the runtime gave no reason")
            raise FBNError(f"{self._label} cannot be prepared to run: {reason}.")
        return context

    def _bind(self, engine: api.ICudaEngine, context: api.IExecutionContext, batch: int) -> None:
        """Shapes, types and device memory of every input and output."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == self._trt.TensorIOMode.INPUT]
        for name in inputs:
            least, _, most = (tuple(s) for s in engine.get_tensor_profile_shape(name, 0))
            if not least[0] <= batch <= most[0]:
                takes = str(least[0]) if least == most else f"{least[0]} to {most[0]}"
                raise FBNError(
                    f"{self._label} takes a batch of {takes}, and batch {batch} was asked. "
                    "Build it with a larger --max-batch."
                )
            context.set_input_shape(name, (batch, *least[1:]))
        shapes = {name: tuple(context.get_tensor_shape(name)) for name in names}
        dtypes = {name: self._dtype(engine, name) for name in names}
        self._shapes = {name: shapes[name] for name in inputs}
        self._dtypes = {name: dtypes[name] for name in inputs}
        self._outputs = {
            name: (shapes[name], dtypes[name]) for name in names if name not in self._shapes
        }
        samples = _opening.sample_inputs(self._shapes, self._dtypes)
        for name in names:
            array = samples[name] if name in samples else _empty(shapes[name], dtypes[name])
            self._buffers[name] = Buffer(array.nbytes)
            context.set_tensor_address(name, self._buffers[name].address)
            if name in samples:
                self._buffers[name].fill(array)

    def _dtype(self, engine: api.ICudaEngine, name: str) -> npt.DTypeLike:
        dtype = engine.get_tensor_dtype(name)
        try:
            return self._trt.nptype(dtype)
        except TypeError:  # bf16 and fp8 have no NumPy type
            raise FBNError(
                f"{self._label}: {name!r} is {dtype}, which NumPy has no type for. Export the "
                "model with fp32 inputs and outputs; casts inside cost nothing worth naming."
            ) from None

    def _warmed_up(self) -> bool:
        """Runs once, so that everything lazy has happened, and captures the graph; whether it
        could be captured. A profiler cannot look into a graph, so for it there is none."""
        self._stream = Stream()
        self._enqueue_kernels()
        self._stream.wait()
        capturable = getattr(self._context, "is_stream_capturable", lambda _: True)
        return (
            not self._profiled
            and capturable(self._stream.handle)
            and self._stream.capture(self._enqueue_kernels)
        )

    def _enqueue_kernels(self) -> None:
        assert self._stream is not None
        assert self._context is not None
        if not self._context.execute_async_v3(self._stream.handle):
            reason = self._messages.reason("the runtime gave no reason")
            raise FBNError(f"{self._label} failed to run: {reason}.")

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    @property
    def uses_graph(self) -> bool:
        """Whether runs are launches of a CUDA graph."""
        return self._graph

    @property
    def device_memory_bytes(self) -> int:
        """What the engine's intermediate results take, without weights, inputs and outputs."""
        assert self._engine is not None, "This session is closed."
        return self._engine.device_memory_size_v2

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        feeds = _opening.checked_inputs(inputs, self._shapes, self._dtypes)
        for name, array in feeds.items():
            self._buffers[name].fill(array)
        self.enqueue()
        found = {name: _empty(*about) for name, about in self._outputs.items()}
        for name, array in found.items():
            self._buffers[name].read(array)
        return found

    def enqueue(self) -> float:
        assert self._stream is not None, "This session is closed."
        launch = self._stream.launch if self._graph else self._enqueue_kernels
        return self._stream.timed_ms(launch)

    def layers(self, runs: int) -> list[LayerTime]:
        assert self._profiled, "layers are profiled in a session opened for profiling"
        assert self._engine is not None, "This session is closed."
        assert self._context is not None
        times_ms: dict[str, list[float]] = defaultdict(list)
        # Kept by this frame: TensorRT holds no reference to it.
        profiler = _profiler(self._trt, times_ms)
        self._context.profiler = profiler
        for run in range(_PROFILE_WARMUP + runs):
            if run == _PROFILE_WARMUP:
                times_ms.clear()
            self.enqueue()
        inspector = self._engine.create_engine_inspector()
        known = layers_from_inspector(
            inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        )
        found = []
        for name, times in times_ms.items():
            layer = layer_called(name, known)
            found.append(
                LayerTime(
                    name=(layer and layer.main_node()) or name,
                    op=layer.op if layer else "",
                    latency_ms=_opening.interquartile_mean(times),
                    nodes=layer.nodes if layer else (),
                )
            )
        return found

    def close(self) -> None:
        if self._cache is not None and self._cache_path is not None:
            with contextlib.suppress(OSError, FBNError):  # a cache that is lost costs time
                write_bytes(self._cache_path, bytes(self._cache.serialize()))
        self._cache = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        # In this order: each holds on to the next without keeping it alive.
        self._context = None
        self._engine = None
        self._runtime = None
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers = {}

    def __enter__(self) -> TensorRtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    import numpy as np

    return np.empty(shape, dtype)


def _profiler(trt: TensorRt, times_ms: dict[str, list[float]]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times_ms[layer_name].append(ms)

    return Profiler()
