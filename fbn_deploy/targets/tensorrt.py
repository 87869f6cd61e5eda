"""TensorRT 10 and 11 on an NVIDIA GPU. Builds with a timing cache, on the GPU that will run."""

from __future__ import annotations

from fbn_deploy.targets._engines import EngineBuilder
from fbn_deploy.targets._tensorrt.package import TENSORRT
from fbn_deploy.targets._tensorrt.target import TensorRtTarget

TARGET: EngineBuilder = TensorRtTarget(
    TENSORRT,
    name="tensorrt",
    description="TensorRT on an NVIDIA GPU",
    preference=10,
)
