"""A GPU that is none: CUDA's calls on host memory, and a TensorRT whose engines are ONNX models.

With it, the order of calls, the bookkeeping of memory and every failure can be tested anywhere.
What it cannot show is that a real GPU agrees; ``make test-gpu`` is for that.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

OK, INVALID_CAPTURE, NO_MEMORY = 0, 901, 2
RUN_MS = 0.25


class Cuda:
    """The part of ``cuda.bindings.runtime`` that ``device.py`` uses."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, memory_bytes: int = 1 << 30, captures: bool = True) -> None:
        self.live: dict[int, Any] = {}
        self.memory_bytes, self.captures = memory_bytes, captures
        self.capturing: list[Callable[[], None]] | None = None
        self.clock_ms = 0.0
        self.under_way: list[Callable[[], object]] = []
        self.launched = 0

    def enqueue(self, work: Callable[[], None]) -> None:
        """What a kernel launch does: records the work, or does it now."""
        if self.capturing is not None:
            self.capturing.append(work)
        else:
            work()
            self.clock_ms += RUN_MS

    def _new(self, value: Any) -> int:
        handle = max(self.live, default=0) + 1
        self.live[handle] = value
        return handle

    def cudaGetErrorName(self, error: int) -> tuple[int, bytes]:
        names = {NO_MEMORY: b"cudaErrorMemoryAllocation", INVALID_CAPTURE: b"cudaErrorCapture"}
        return OK, names[error]

    def cudaGetLastError(self) -> tuple[int]:
        return (OK,)

    def cudaMalloc(self, nbytes: int) -> tuple[int, int]:
        if nbytes > self.memory_bytes:
            return NO_MEMORY, 0
        memory = ctypes.create_string_buffer(nbytes)
        address = ctypes.addressof(memory)
        self.live[address] = memory
        return OK, address

    def cudaFree(self, address: int) -> tuple[int]:
        del self.live[address]
        return (OK,)

    def cudaMemcpy(self, to: int, source: int, nbytes: int, kind: int) -> tuple[int]:
        """To the device it returns before the copy is done, as CUDA may with pageable memory."""
        content = ctypes.string_at(source, nbytes) if kind == 1 else b""
        if kind == 1:
            self.under_way.append(lambda: ctypes.memmove(to, content, nbytes))
        else:
            self.cudaDeviceSynchronize()
            ctypes.memmove(to, source, nbytes)
        return (OK,)

    def cudaDeviceSynchronize(self) -> tuple[int]:
        while self.under_way:
            self.under_way.pop(0)()
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return OK, self._new("stream")

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (OK,)

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        del self.live[stream]
        return (OK,)

    def cudaEventCreate(self) -> tuple[int, int]:
        return OK, self._new("event")

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        self.live[event] = self.clock_ms
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        return (OK,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        return OK, self.live[end] - self.live[start]

    cudaEventDestroy = cudaStreamDestroy

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.capturing = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, Any]:
        work, self.capturing = self.capturing, None
        return (OK, self._new(work)) if self.captures else (INVALID_CAPTURE, None)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        return OK, self._new(self.live[graph])

    cudaGraphDestroy = cudaGraphExecDestroy = cudaStreamDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        self.launched += 1
        for work in self.live[graph]:
            work()
        self.clock_ms += RUN_MS
        return (OK,)


class Mode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class Engine:
    """An ONNX model that takes batches from ``least`` to ``most``."""

    device_memory_size_v2 = 4096

    def __init__(self, cuda: Cuda, plan: bytes, least: int, most: int) -> None:
        self.cuda, self.least, self.most = cuda, least, most
        self.model = onnx.load_from_string(plan)
        self.values = [*self.model.graph.input, *self.model.graph.output]
        self.num_io_tensors = len(self.values)

    def get_tensor_name(self, index: int) -> str:
        name: str = self.values[index].name
        return name

    def _value(self, name: str) -> Any:
        return next(value for value in self.values if value.name == name)

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if self._value(name) in self.model.graph.input else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> int:
        number: int = self._value(name).type.tensor_type.elem_type
        return number

    def shape(self, name: str, batch: int) -> tuple[int, ...]:
        sizes = self._value(name).type.tensor_type.shape.dim
        return (batch, *(size.dim_value for size in sizes[1:]))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [self.shape(name, batch) for batch in (self.least, self.least, self.most)]

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_engine_inspector(self) -> Any:
        """Fuses a convolution with its activation, and adds a change of layout before it."""
        first, second, *rest = (node.name for node in self.model.graph.node)
        layers = [
            {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Metadata": ""},
            {
                "Name": f"{first} + {second}",
                "LayerType": "CaskConvolution",
                "Metadata": f"[ONNX Layer: {first}]\x1e[ONNX Layer: {second}]",
            },
            *({"Name": n, "LayerType": "Kgen", "Metadata": f"[ONNX Layer: {n}]"} for n in rest),
        ]
        text = json.dumps({"Layers": layers, "Bindings": []})
        return SimpleNamespace(get_engine_information=lambda _: text)


class Context:
    """Runs the model on the memory whose addresses it was told."""

    profiler: Any = None

    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses = engine, dict[str, int]()
        self.batch = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.engine.shape(name, self.batch)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.engine.cuda.enqueue(self._run)
        if self.profiler is not None:
            names = ["Reformatting CopyNode", "stem.conv + stem.relu", "head.pool"]
            for number, name in enumerate(names):
                self.profiler.report_layer_time(name, 0.1 * (number + 1))
        return True

    def _run(self) -> None:
        graph = self.engine.model.graph
        feeds = {value.name: self._array(value.name) for value in graph.input}
        outputs = ReferenceEvaluator(self.engine.model).run(None, feeds)
        for value, output in zip(graph.output, outputs, strict=True):
            self._array(value.name)[...] = output

    def _array(self, name: str) -> Any:
        shape = self.get_tensor_shape(name)
        values = ctypes.c_float * int(np.prod(shape))
        return np.frombuffer(values.from_address(self.addresses[name]), np.float32).reshape(shape)


class TensorRt:
    """The part of the module that a session uses. Engines are what ``deserialize`` returns."""

    __version__ = "11.4.0.106"
    TensorIOMode = Mode
    LayerInformationFormat = SimpleNamespace(JSON=1)
    ILogger = IProfiler = IProgressMonitor = type("Interface", (), {})

    def __init__(self, cuda: Cuda, least: int = 1, most: int = 1) -> None:
        self.cuda, self.least, self.most = cuda, least, most

    def nptype(self, dtype: int) -> Any:
        if dtype != onnx.TensorProto.FLOAT:
            raise TypeError("no NumPy type")
        return np.float32

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: bytes) -> Engine | None:
            try:
                return Engine(self.cuda, plan, self.least, self.most)
            except Exception:
                severity = SimpleNamespace(name="ERROR")
                logger.log(severity, "IRuntime::deserializeCudaEngine: Error Code 1: bad magic tag")
                return None

        return SimpleNamespace(deserialize_cuda_engine=deserialize, engine_host_code_allowed=False)
