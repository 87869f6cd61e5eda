"""ONNX Runtime's own CPU kernels: the target that every machine has."""

from __future__ import annotations

from pathlib import Path

from fbn_deploy.targets import _onnxruntime, _opening
from fbn_deploy.targets._host import OnCpu


class OnnxRuntimeCpu(OnCpu):
    """ONNX Runtime's CPU provider; see ``_onnxruntime.py`` for its settings."""

    name = "onnxruntime-cpu"
    description = "ONNX Runtime on this machine's CPU"
    preference = 50
    precisions = ("fp32", "fp16", "int8")
    shifts_as_convolution = True  # an Add leaves the blocked layout of its convolutions
    unsigned_activations = True  # with int8, convolutions before a ReLU run in fp32
    settings = _onnxruntime.SETTINGS

    def missing(self) -> str | None:
        return _onnxruntime.import_problem()

    def versions(self) -> dict[str, str]:
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    def open(
        self,
        model: bytes | Path,
        *,
        batch: int,
        threads: int,
        precision: str = "fp32",
        profile: bool = False,
    ) -> _onnxruntime.OrtSession:
        _opening.check_request(self, model, batch=batch, threads=threads, precision=precision)
        return _onnxruntime.OrtSession(
            self,
            model,
            batch=batch,
            threads=threads,
            provider="CPUExecutionProvider",
            profile=profile,
        )


TARGET = OnnxRuntimeCpu()
