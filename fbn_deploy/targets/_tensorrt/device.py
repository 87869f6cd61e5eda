"""Device memory, a stream, events and a graph, through NVIDIA's ``cuda-bindings``.

Everything is given back by ``close``. No PyTorch: a device that runs engines need not have it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError

if TYPE_CHECKING:
    import numpy.typing as npt

_INSTALL = "Install it with pip install cuda-bindings"


def import_problem() -> str | None:
    """Why ``cuda.bindings`` cannot be imported, with what mends it; None when it can."""
    try:
        from cuda.bindings import runtime  # noqa: F401
    except ImportError as error:
        return f"the cuda-bindings package does not load ({error}). {_INSTALL}"
    return None


def checked(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, whose answer is (error, value). Raises ``FBNError`` with CUDA's
    name for the error."""
    from cuda.bindings import runtime

    error, *values = answer
    if int(error):
        _, name = runtime.cudaGetErrorName(error)
        raise FBNError(f"CUDA failed: {name.decode()}.")
    return values[0] if values else None


class Buffer:
    """``nbytes`` bytes of device memory at ``address``."""

    def __init__(self, nbytes: int) -> None:
        from cuda.bindings import runtime

        self.address: int = 0
        self.address = int(checked(runtime.cudaMalloc(max(nbytes, 1))))

    def fill(self, array: npt.NDArray[Any]) -> None:
        """Copies a contiguous array into it and waits."""
        from cuda.bindings import runtime

        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(runtime.cudaMemcpy(self.address, array.ctypes.data, array.nbytes, kind))
        # That may return while the copy is still under way, and ``Stream`` waits for nobody.
        checked(runtime.cudaDeviceSynchronize())

    def read(self, array: npt.NDArray[Any]) -> None:
        """Copies it into a contiguous array and waits."""
        from cuda.bindings import runtime

        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(runtime.cudaMemcpy(array.ctypes.data, self.address, array.nbytes, kind))

    def close(self) -> None:
        """Gives the memory back. Twice is harmless."""
        from cuda.bindings import runtime

        if self.address:
            runtime.cudaFree(self.address)
            self.address = 0


class Stream:
    """A stream that does not wait for the default one, and two events that time work on it."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._stream: Any = checked(
            runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)
        )
        self._start: Any = checked(runtime.cudaEventCreate())
        self._end: Any = checked(runtime.cudaEventCreate())
        self._graph: Any = None

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self._stream)

    def wait(self) -> None:
        """Returns when all that was enqueued is done."""
        from cuda.bindings import runtime

        checked(runtime.cudaStreamSynchronize(self._stream))

    def timed_ms(self, enqueue: Callable[[], None]) -> float:
        """Enqueues, waits, and gives the milliseconds between the events around it."""
        from cuda.bindings import runtime

        checked(runtime.cudaEventRecord(self._start, self._stream))
        enqueue()
        checked(runtime.cudaEventRecord(self._end, self._stream))
        checked(runtime.cudaEventSynchronize(self._end))
        return float(checked(runtime.cudaEventElapsedTime(self._start, self._end)))

    def capture(self, enqueue: Callable[[], None]) -> bool:
        """Captures what ``enqueue`` enqueues as a graph; False where it cannot be captured."""
        from cuda.bindings import runtime

        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(runtime.cudaStreamBeginCapture(self._stream, mode))
        captured = None
        with contextlib.suppress(FBNError):
            try:
                enqueue()
            finally:  # a stream is left as it was found, also when its capture failed
                error, captured = runtime.cudaStreamEndCapture(self._stream)
                captured = None if int(error) else captured
        if captured is None:
            runtime.cudaGetLastError()  # takes the error back
            return False
        error, self._graph = runtime.cudaGraphInstantiate(captured, 0)
        runtime.cudaGraphDestroy(captured)
        if int(error):
            runtime.cudaGetLastError()
            self._graph = None
        return self._graph is not None

    def launch(self) -> None:
        """Enqueues the captured graph."""
        from cuda.bindings import runtime

        checked(runtime.cudaGraphLaunch(self._graph, self._stream))

    def close(self) -> None:
        """Gives everything back. Twice is harmless."""
        from cuda.bindings import runtime

        if self._graph is not None:
            runtime.cudaGraphExecDestroy(self._graph)
            self._graph = None
        if self._stream is not None:
            runtime.cudaEventDestroy(self._start)
            runtime.cudaEventDestroy(self._end)
            runtime.cudaStreamDestroy(self._stream)
            self._stream = None
