"""What every target does: say whether it is ready, open a model, run it, profile its layers.

A *target* is a runtime on a device. It opens an ONNX model into a *session* with a fixed batch,
thread count and precision; the session runs on real inputs (``run``), runs once on inputs that
lie where the runtime wants them (``enqueue``, for timing), and reads the runtime's own profiler
(``layers``, in a session that was opened for nothing else).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fbn_deploy.errors import FBNError

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt

    Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerTime:
    """Time of one executed layer: interquartile mean over the profiled runs, in milliseconds.

    ``name`` is what the runtime calls it: an ONNX node or the value that it writes, whichever it
    kept; ``op`` is its own word for the kernel.
    """

    name: str
    op: str
    latency_ms: float
    nodes: tuple[str, ...] = ()
    """Every ONNX node that was fused into it, where the runtime says."""
    aliases: tuple[str, ...] = ()
    """``name`` without what this runtime puts around names; meant only if the model has it."""
    computes: tuple[str, ...] = ()
    """The ONNX ops that it may be a kernel of, where ``op`` is another word for them."""


class NoLayerTimes(FBNError):
    """A runtime times no layers, for the reason that it says; the whole can be timed."""


class Session(Protocol):
    """A model on a target, ready to run. Close it, or use it in a ``with`` block."""

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input, with the batch filled in."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises ``FBNError`` when names, shapes or types do not match."""
        ...

    def enqueue(self) -> float | None:
        """Runs once on inputs bound beforehand and returns when the result is there: the
        milliseconds by the device's own clock, or None where it has none."""
        ...

    def layers(self, runs: int) -> list[LayerTime]:
        """Layers in the order in which they run, over ``runs`` runs.

        Only in a session opened with ``profile=True``, which is never used to time the whole.
        Raises ``NoLayerTimes`` where the runtime gives none.
        """
        ...

    def close(self) -> None:
        """Gives memory and files back. Closing twice is harmless."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def device_memory_bytes(session: Session) -> int | None:
    """What intermediate results take of the device's memory, beside weights, inputs and outputs;
    None where the session does not say: it has a property of this name on GPUs with TensorRT."""
    return getattr(session, "device_memory_bytes", None)


class Target(Protocol):
    """A runtime on a device. Its module defines it as ``TARGET``."""

    @property
    def name(self) -> str:
        """As users type it: ``onnxruntime-cpu``."""
        ...

    @property
    def description(self) -> str:
        """One line for ``fbn targets``."""
        ...

    @property
    def preference(self) -> int:
        """The ready target with the smallest number is the default."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """What ``open`` accepts. ``int8`` means that the graph carries Q/DQ pairs."""
        ...

    @property
    def int8_weight_levels(self) -> int:
        """The largest integer weight whose products do not saturate: 127, or 63 where the
        processor sums byte products in 16 bits."""
        ...

    @property
    def unsigned_activations(self) -> bool | None:
        """Whether an int8 graph runs fastest here with its activations as uint8; False where it has
        to hold them as int8, None where either will do."""
        ...

    @property
    def shifts_as_convolution(self) -> bool:
        """Whether a per-channel scale and shift that folding has to leave runs fastest here as a
        depthwise 1×1 convolution; else as Mul and Add."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """Runtime settings that influence latency; part of every record's conditions."""
        ...

    def settings_of(self, model: bytes | Path, batch: int) -> dict[str, str]:
        """``settings`` as they are for what ``open`` takes for ``model``: an engine that was built
        of it before may have others."""
        ...

    def missing(self) -> str | None:
        """None when ready; else the reason and the command that mends it, as two sentences."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the runtime and of the driver, where there is one."""
        ...

    def device(self) -> str:
        """The name of the device that runs the model."""
        ...

    def power_state(self) -> str:
        """Frequency governor or power limit; empty where the system does not say."""
        ...

    def clock_mhz(self) -> float | None:
        """The device's clock now; None where the system does not say."""
        ...

    def open(
        self,
        model: bytes | Path,
        *,
        batch: int,
        threads: int,
        precision: str = "fp32",
        profile: bool = False,
    ) -> Session:
        """A session on an ONNX ``model``; a free batch dimension becomes ``batch``.

        Raises ``FBNError`` for a file that is no ONNX model, a batch that the model does not
        take, a precision that this target does not have, or a graph that it cannot run.
        """
        ...


@runtime_checkable
class Parallel(Protocol):
    """A target that serves several requests at once; see ``latency/throughput.py``."""

    def runs_per_second(
        self, model: bytes | Path, *, batch: int, threads: int, precision: str, seconds: float
    ) -> tuple[float, int]:
        """(runs a second over about ``seconds``, requests in flight: as many as the runtime
        finds best). Raises ``FBNError`` like ``Target.open``."""
        ...
