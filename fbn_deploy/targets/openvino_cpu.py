"""OpenVINO on the CPU, with the precision said aloud: left alone it runs fp32 models in bf16 on
processors that have bf16 units."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fbn_deploy.targets import _opening, _openvino_cache
from fbn_deploy.targets._host import OnCpu
from fbn_deploy.targets._protocol import LayerTime

if TYPE_CHECKING:
    import numpy.typing as npt

_HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
_LATENCY = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
_THROUGHPUT = {"PERFORMANCE_HINT": "THROUGHPUT"}  # streams and requests as OpenVINO chooses
# OpenVINO splits a bias or an int8 scale off an op and renames the rest.
_SPLIT = re.compile(r"(/WithoutBiases|/Dequantization\w+)+$")
_ONNX_OPS = {
    "AvgPool": ("AveragePool", "GlobalAveragePool"),
    "Convolution": ("Conv",),
    "Deconvolution": ("ConvTranspose",),
    "FullyConnected": ("Gemm", "MatMul"),
    "FullyConnectedQuantizedLegacy": ("Gemm", "MatMul"),
    "GroupConvolution": ("Conv",),
    "MatMul": ("MatMul", "Gemm"),
}
_PROFILE_WARMUP = 5


class OpenVinoSession:
    """A compiled OpenVINO model with one synchronous request."""

    def __init__(
        self,
        target: OpenVinoCpu,
        model: bytes | Path,
        *,
        batch: int,
        threads: int,
        precision: str,
        profile: bool,
        in_parallel: bool = False,
    ) -> None:
        import openvino

        self._target, self._source, self._profiled = target, model, profile
        core = openvino.Core()
        try:
            network = core.read_model(str(model) if isinstance(model, Path) else model)
        except RuntimeError as error:
            raise _opening.cannot_open(target, model, error) from error
        self._shapes = {
            port.any_name: _opening.filled_shape(
                model,
                port.any_name,
                [
                    str(size) if size.is_dynamic else size.get_length()
                    for size in port.partial_shape
                ],
                batch,
            )
            for port in network.inputs
        }
        self._dtypes = {port.any_name: port.element_type.to_dtype() for port in network.inputs}
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "ENABLE_CPU_PINNING": False,
            "PERF_COUNT": profile,
            **(_THROUGHPUT if in_parallel else _LATENCY),
        }
        try:
            network.reshape(dict(self._shapes))
            compiled = self._compiled(target, core, network, model, config)
        except RuntimeError as error:
            raise _opening.cannot_open(target, model, error) from error
        self._outputs = [(port.any_name, index) for index, port in enumerate(compiled.outputs)]
        self._model, self._request = compiled, compiled.create_infer_request()
        self._bound = {
            name: openvino.Tensor(array)
            for name, array in _opening.sample_inputs(self._shapes, self._dtypes).items()
        }
        self._bind_samples()

    def _compiled(
        self,
        target: OpenVinoCpu,
        core: Any,
        network: Any,
        model: bytes | Path,
        config: dict[str, Any],
    ) -> Any:
        """From the cache, if the model is a file. The candidates of a search come as bytes: each
        is opened once, so they would only fill the disk."""
        if not isinstance(model, Path):
            return core.compile_model(network, "CPU", config)
        conditions = {
            "config": config,
            "shapes": self._shapes,
            "versions": target.versions(),
            "device": target.device(),
        }
        path = _openvino_cache.blob_path(model, conditions)
        compiled = _openvino_cache.imported(core, path, config)
        if compiled is None:
            compiled = core.compile_model(network, "CPU", config)
            _openvino_cache.keep(compiled, path)
        return compiled

    def _bind_samples(self) -> None:
        for name, tensor in self._bound.items():
            self._request.set_tensor(name, tensor)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        import openvino

        feeds = _opening.checked_inputs(inputs, self._shapes, self._dtypes)
        try:
            for name, array in feeds.items():
                self._request.set_tensor(name, openvino.Tensor(array))
            self.enqueue()
            return {
                name: self._request.get_output_tensor(index).data.copy()
                for name, index in self._outputs
            }
        finally:
            self._bind_samples()

    def enqueue(self) -> None:
        try:
            self._request.infer(share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise _opening.cannot_run(self._target, self._source, error) from error

    def parallel_runs(self, seconds: float) -> tuple[float, int]:
        """(runs a second, requests in flight) of a session opened ``in_parallel``."""
        import openvino

        queue = openvino.AsyncInferQueue(self._model)
        try:
            for _ in range(2 * len(queue)):
                queue.start_async(self._bound, share_inputs=True)
            queue.wait_all()
            runs, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds:
                queue.start_async(self._bound, share_inputs=True)
                runs += 1
            queue.wait_all()
        except RuntimeError as error:
            raise _opening.cannot_run(self._target, self._source, error) from error
        return runs / (time.perf_counter() - started), len(queue)

    def layers(self, runs: int) -> list[LayerTime]:
        assert self._profiled, "layers are profiled in a session opened for profiling"
        times_us: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in range(_PROFILE_WARMUP + runs):
            self.enqueue()
            for info in self._request.get_profiling_info():
                if run >= _PROFILE_WARMUP and info.status == info.Status.EXECUTED:
                    times_us[info.node_name, info.node_type].append(
                        info.real_time.total_seconds() * 1e6
                    )
        fused = self._fused()
        return [
            LayerTime(
                name,
                op,
                _opening.interquartile_mean(times) / 1e3,
                nodes=fused.get(name, ()),
                aliases=(_SPLIT.sub("", name),),
                computes=_ONNX_OPS.get(op, ()),
            )
            for (name, op), times in times_us.items()
        ]

    def _fused(self) -> dict[str, tuple[str, ...]]:
        """Layer → the nodes that it was made from, OpenVINO's own among them."""
        made = {
            node.friendly_name: node.get_rt_info()
            for node in self._model.get_runtime_model().get_ops()
        }
        return {
            name: tuple(about["originalLayersNames"].astype(str).split(","))
            for name, about in made.items()
            if "originalLayersNames" in about
        }

    def close(self) -> None:
        self._model = self._request = None
        self._bound = {}

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class OpenVinoCpu(OnCpu):
    """OpenVINO's CPU plugin: latency hint, one stream, explicit threads and precision."""

    name = "openvino-cpu"
    description = "OpenVINO on this machine's CPU"
    preference = 60
    precisions = ("fp32", "fp16", "bf16", "int8")
    # It fuses both alike, and x86 multiplies uint8 by int8: a MobileNet at 224 pixels took 4.7 ms
    # with uint8 and 5.3 with int8 (fp32 11.1; one thread of an AMD EPYC with VNNI).
    unsigned_activations = True
    shifts_as_convolution = False  # Mul and Add fuse into the operator before them
    settings: dict[str, str] = {  # noqa: RUF012
        "performance_hint": "latency",
        "streams": "1",
        "pinning": "off",
    }

    def missing(self) -> str | None:
        mend = 'Install it with pip install "fbn-deploy[openvino]"'
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "openvino":
                return f"the openvino package is not installed. {mend}"
            return f"openvino does not load ({error}). {mend}"
        return None

    def versions(self) -> dict[str, str]:
        import openvino

        return {"openvino": openvino.__version__}

    def open(
        self,
        model: bytes | Path,
        *,
        batch: int,
        threads: int,
        precision: str = "fp32",
        profile: bool = False,
    ) -> OpenVinoSession:
        _opening.check_request(self, model, batch=batch, threads=threads, precision=precision)
        return OpenVinoSession(
            self, model, batch=batch, threads=threads, precision=precision, profile=profile
        )

    def runs_per_second(
        self, model: bytes | Path, *, batch: int, threads: int, precision: str, seconds: float
    ) -> tuple[float, int]:
        """With OpenVINO's throughput hint, as its benchmark_app measures."""
        _opening.check_request(self, model, batch=batch, threads=threads, precision=precision)
        with OpenVinoSession(
            self,
            model,
            batch=batch,
            threads=threads,
            precision=precision,
            profile=False,
            in_parallel=True,
        ) as session:
            return session.parallel_runs(seconds)


TARGET = OpenVinoCpu()
