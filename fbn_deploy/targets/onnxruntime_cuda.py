"""ONNX Runtime's CUDA provider, with everything bound in device memory and no node on the CPU."""

from __future__ import annotations

import functools
from pathlib import Path

from fbn_deploy.errors import FBNError
from fbn_deploy.targets import _cuda, _onnxruntime, _opening
from fbn_deploy.targets._host import OnCuda

_PROVIDER = "CUDAExecutionProvider"
# TF32 is off: "fp32" means fp32.
_OPTIONS = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
# One Relu on one float, as ONNX: opening it shows whether the CUDA libraries load.
_PROBE = bytes.fromhex(
    "080812003a330a0c0a0178120179220452656c751201705a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a00100d"
)


class OnnxRuntimeCuda(OnCuda):
    """ONNX Runtime on the first NVIDIA GPU. ``enqueue`` returns when the GPU has finished."""

    name = "onnxruntime-cuda"
    description = "ONNX Runtime on an NVIDIA GPU"
    preference = 30
    precisions = ("fp32", "fp16", "int8")
    int8_weight_levels = 127
    unsigned_activations = None
    shifts_as_convolution = True  # not measured
    settings = _onnxruntime.SETTINGS | {"tf32": "off", "conv_algorithm": "exhaustive"}

    def missing(self) -> str | None:
        """The driver is asked first, then the provider is tried on a network of one node."""
        return _cuda.driver_problem() or _onnxruntime.import_problem() or self._provider_problem()

    @functools.cache  # noqa: B019 (one target lives as long as the process)
    def _provider_problem(self) -> str | None:
        import onnxruntime

        mend = 'Install it with pip install "onnxruntime-gpu[cuda,cudnn]"'
        if _PROVIDER not in onnxruntime.get_available_providers():
            return f"this onnxruntime has no CUDA provider. {mend}"
        try:
            self.open(_PROBE, batch=1, threads=1).close()
        except FBNError as error:
            return f"the CUDA provider does not load ({error}) {mend}"
        return None

    def versions(self) -> dict[str, str]:
        import onnxruntime

        found = {
            "onnxruntime": onnxruntime.__version__,
            "cuda": str(onnxruntime.cuda_version),
            "driver_cuda": _cuda.driver_version(),
            "driver": _cuda.driver_release(),
        }
        return {name: version for name, version in found.items() if version}

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
        import onnxruntime

        if hasattr(onnxruntime, "preload_dlls"):  # finds CUDA libraries that pip installed
            onnxruntime.preload_dlls()
        return _onnxruntime.OrtSession(
            self,
            model,
            batch=batch,
            threads=threads,
            provider=_PROVIDER,
            provider_options=_OPTIONS,
            device="cuda",
            profile=profile,
        )


TARGET = OnnxRuntimeCuda()
