"""The Python packages that hold TensorRT, and how each is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from fbn_deploy.targets._tensorrt import api


class TensorRt(Protocol):
    """The imported module: ``tensorrt`` or ``tensorrt_rtx``."""

    __version__: str
    BuilderFlag: api.BuilderFlag
    NetworkDefinitionCreationFlag: api.NetworkDefinitionCreationFlag
    ProfilingVerbosity: api.ProfilingVerbosity
    MemoryPoolType: api.MemoryPoolType
    HardwareCompatibilityLevel: api.HardwareCompatibilityLevel
    LayerInformationFormat: api.LayerInformationFormat
    TensorIOMode: api.TensorIOMode
    Builder: Callable[[Any], api.Builder]
    OnnxParser: Callable[[api.INetworkDefinition, Any], api.OnnxParser]
    Runtime: Callable[[Any], api.Runtime]
    ILogger: type[Any]
    IProfiler: type[Any]
    IProgressMonitor: type[Any]

    def nptype(self, trt_type: Any) -> type[Any]: ...


@dataclass(frozen=True)
class Package:
    """A package of TensorRT's family."""

    module: str
    label: str
    """As messages call it."""
    install: str
    """The command that installs it."""
    builds_without_gpu: bool
    """TensorRT times kernels while it builds; TensorRT-RTX chooses them when the engine loads."""
    portable_engines: bool
    """Whether an engine runs on GPUs of other kinds than the one where it was built."""
    lean_runtime: bool
    """Whether it ships the lean runtime, which engines need that run on later versions."""

    def load(self) -> TensorRt:
        """The module. Only when ``import_problem()`` is None."""
        return cast(TensorRt, importlib.import_module(self.module))

    def import_problem(self) -> str | None:
        """Why it cannot be imported here, with the command that mends it; None when it can."""
        try:
            self.load()
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == self.module:
                return f"the {self.module} package is not installed. {self.install}"
            return f"{self.module} does not load ({error}). {self.install}"
        except (OSError, RuntimeError) as error:
            return f"{self.module} does not load ({error}). {self.install}"
        return None

    def version(self) -> str:
        """As ``10.16.1.11``."""
        return self.load().__version__


TENSORRT = Package(
    module="tensorrt",
    label="TensorRT",
    install='Install it with pip install "fbn-deploy[tensorrt]"',
    builds_without_gpu=False,
    portable_engines=False,
    lean_runtime=True,
)
TENSORRT_RTX = Package(
    module="tensorrt_rtx",
    label="TensorRT for RTX",
    install='Install it with pip install "fbn-deploy[tensorrt-rtx]"',
    builds_without_gpu=True,
    portable_engines=True,
    lean_runtime=False,
)
PACKAGES = {package.module: package for package in (TENSORRT, TENSORRT_RTX)}
