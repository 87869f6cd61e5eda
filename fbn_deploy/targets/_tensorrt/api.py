"""The part of TensorRT's Python API that the adapter uses, as types.

Every class bears the name of TensorRT's class and declares only what exists in TensorRT 10,
TensorRT 11 and TensorRT-RTX: mypy holds the adapter to these types, and a test holds these types
to the names that were recorded from the packages (``tests/assets/tensorrt_names.json``). What one
of the versions lacks is asked for with ``hasattr`` or ``getattr`` where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

Dims = Iterable[int]


class IHostMemory(Protocol):
    """Bytes that TensorRT owns: ``bytes(memory)`` copies them."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class BuilderFlag(Protocol):
    TF32: Any
    VERSION_COMPATIBLE: Any


class NetworkDefinitionCreationFlag(Protocol):
    STRONGLY_TYPED: Any


class ProfilingVerbosity(Protocol):
    DETAILED: Any


class MemoryPoolType(Protocol):
    WORKSPACE: Any


class HardwareCompatibilityLevel(Protocol):
    AMPERE_PLUS: Any
    SAME_COMPUTE_CAPABILITY: Any


class LayerInformationFormat(Protocol):
    JSON: Any


class TensorIOMode(Protocol):
    INPUT: Any


class ITimingCache(Protocol):
    def serialize(self) -> IHostMemory: ...
    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool: ...


class IOptimizationProfile(Protocol):
    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None: ...


class IBuilderConfig(Protocol):
    builder_optimization_level: int
    profiling_verbosity: Any
    hardware_compatibility_level: Any
    progress_monitor: Any

    def set_flag(self, flag: Any) -> None: ...
    def clear_flag(self, flag: Any) -> None: ...
    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...


class ITensor(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Dims: ...


class INetworkDefinition(Protocol):
    @property
    def num_inputs(self) -> int: ...
    def get_input(self, index: int) -> ITensor: ...


class Builder(Protocol):
    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None: ...


class ParserError(Protocol):
    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    @property
    def num_errors(self) -> int: ...
    def get_error(self, index: int) -> ParserError: ...
    def parse(self, model: bytes) -> bool: ...
    def parse_from_file(self, model: str) -> bool: ...


class EngineInspector(Protocol):
    def get_engine_information(self, format: Any) -> str: ...


class IExecutionContext(Protocol):
    profiler: Any

    def set_input_shape(self, name: str, shape: Dims) -> bool: ...
    def get_tensor_shape(self, name: str) -> Dims: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class ICudaEngine(Protocol):
    @property
    def num_io_tensors(self) -> int: ...
    @property
    def device_memory_size_v2(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]: ...
    def create_execution_context(self) -> IExecutionContext | None: ...
    def create_engine_inspector(self) -> EngineInspector: ...


class Runtime(Protocol):
    engine_host_code_allowed: bool

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...
