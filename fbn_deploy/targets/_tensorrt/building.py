"""An engine out of an ONNX model, in this process: parse, configure, build.

Precision lives in the graph: every network is strongly typed (TensorRT 11 knows nothing else), and
TF32 is off, so that fp32 means fp32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.targets import _opening
from fbn_deploy.targets._engines import EngineOptions, Progress
from fbn_deploy.targets._tensorrt import api
from fbn_deploy.targets._tensorrt.layers import EngineLayer, layers_from_log
from fbn_deploy.targets._tensorrt.messages import Messages, logger
from fbn_deploy.targets._tensorrt.package import TensorRt

_MB = 1 << 20
_MAX_PARSER_ERRORS = 5


class CannotParseError(FBNError):
    """The model is no ONNX model, or has an operator that TensorRT lacks."""


@dataclass(frozen=True)
class Built:
    """A serialised engine (``plan``), and how it came about."""

    plan: bytes
    seconds: float
    warnings: list[str]
    layers: list[EngineLayer]
    """From the builder's log; empty where it lists none."""
    memory_bytes: dict[str, int]
    """From the builder's log (see ``Messages``); empty where it says none."""
    timing_cache: bytes


def built(
    trt: TensorRt,
    model: bytes | Path,
    options: EngineOptions,
    *,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
) -> Built:
    """Builds ``model``. With ``timing_cache`` (what an earlier build returned, or nothing in it),
    kernels that are known there are not timed again.

    Raises ``CannotParseError`` with the node that the parser refuses, and ``FBNError`` with
    TensorRT's reason when building fails.
    """
    messages = Messages()
    log = logger(trt, messages)
    started = time.perf_counter()
    builder = trt.Builder(log)
    network = _parsed(trt, builder, model, log)
    config = _configured(trt, builder, options)
    config.add_optimization_profile(_batches(builder, network, model, options))
    if timing_cache is not None:
        _use(config, timing_cache)
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise FBNError(messages.reason("the builder gave no reason"))
    kept = config.get_timing_cache() if timing_cache is not None else None
    return Built(
        plan=bytes(plan),
        seconds=time.perf_counter() - started,
        warnings=messages.warnings,
        layers=layers_from_log(messages.layers),
        memory_bytes=messages.memory_bytes,
        timing_cache=bytes(kept.serialize()) if kept is not None else b"",
    )


def combined(trt: TensorRt, first: bytes, second: bytes) -> bytes:
    """One timing cache that knows what two know. Only on a machine that can build."""
    config = trt.Builder(logger(trt, Messages())).create_builder_config()
    one, other = config.create_timing_cache(first), config.create_timing_cache(second)
    if one is None or other is None or not one.combine(other, False):
        return first
    return bytes(one.serialize())


def _parsed(
    trt: TensorRt, builder: api.Builder, model: bytes | Path, log: Any
) -> api.INetworkDefinition:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)  # crashes when the network is let go before it
    # From its file, so that weights which lie beside it are found.
    whole = parser.parse_from_file(str(model)) if isinstance(model, Path) else parser.parse(model)
    if not whole or not network.num_inputs:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = dict.fromkeys(_said(error) for error in errors[:_MAX_PARSER_ERRORS])
        raise CannotParseError("; ".join(said) or "it has no inputs")
    return network


def _said(error: api.ParserError) -> str:
    node = error.node_name()
    text = " ".join(error.desc().split())
    return f"node {node!r} ({error.node_operator()}): {text}" if node else text


def _configured(trt: TensorRt, builder: api.Builder, options: EngineOptions) -> api.IBuilderConfig:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * _MB)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    levels = trt.HardwareCompatibilityLevel
    if options.hardware == "same-capability":
        config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY
    elif options.hardware == "ampere-plus":
        config.hardware_compatibility_level = levels.AMPERE_PLUS
    return config


def _batches(
    builder: api.Builder,
    network: api.INetworkDefinition,
    model: bytes | Path,
    options: EngineOptions,
) -> api.IOptimizationProfile:
    """Which batches the engine takes, and the one that it is tuned for."""
    profile = builder.create_optimization_profile()
    least = options.batch if options.max_batch is None else 1
    most = options.batch if options.max_batch is None else options.max_batch
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = [size if size >= 0 else "batch" for size in tensor.shape]
        shapes = [
            _opening.filled_shape(model, tensor.name, sizes, batch)
            for batch in (least, options.batch, most)
        ]
        profile.set_shape(tensor.name, *shapes)
    return profile


def _use(config: api.IBuilderConfig, content: bytes) -> None:
    """Gives ``config`` a timing cache; an empty one where ``content`` is of another GPU."""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        empty = config.create_timing_cache(b"")
        assert empty is not None, "TensorRT makes no empty timing cache."
        config.set_timing_cache(empty, False)


def _monitor(trt: TensorRt, progress: Callable[[str], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            progress(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(f"{phase_name} {step + 1}/{self._steps[phase_name]}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
