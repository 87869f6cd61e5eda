"""TensorRT for RTX: builds engines anywhere, and compiles their kernels on the GPU that runs."""

from __future__ import annotations

from fbn_deploy.targets._engines import EngineBuilder
from fbn_deploy.targets._tensorrt.package import TENSORRT_RTX
from fbn_deploy.targets._tensorrt.target import TensorRtTarget

TARGET: EngineBuilder = TensorRtTarget(
    TENSORRT_RTX,
    name="tensorrt-rtx",
    description="TensorRT for RTX on an NVIDIA GPU; builds engines without one",
    preference=20,
)
