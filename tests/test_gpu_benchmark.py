"""``benchmarks/gpu.py`` on a GPU that is played: a row for each runtime, whatever fails."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from test_targets import small_network
from test_tensorrt_target import PlayedBuilder, played_target

from fbn_deploy.latency import protocol
from fbn_deploy.targets._engines import EngineOptions
from fbn_deploy.targets._tensorrt.builder import BuiltEngine
from fbn_deploy.targets._tensorrt.target import TensorRtTarget

GRAPHS = {"fp16": small_network(), "bf16": b"no model"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module, for one batch and timed in moments."""
    path = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BATCHES", (1,))
    monkeypatch.setattr(module, "PRECISIONS", tuple(GRAPHS))
    moments = dataclasses.replace(protocol.QUICK, warmup_s=0.001, round_s=0.001, limit_s=0.01)
    monkeypatch.setattr(protocol, "QUICK", dataclasses.replace(moments, patience_s=0.0))
    return module


class Timing(PlayedBuilder):
    """Takes 6 s without a timing cache and 1.5 s with one, which it leaves."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def build(self, model: bytes | Path, options: EngineOptions, **said: Any) -> BuiltEngine:
        known: Path = said["timing_cache"]
        self.seconds.append(1.5 if known.exists() else 6.0)
        known.parent.mkdir(exist_ok=True)
        known.write_bytes(b"timings")
        story = {"seconds": self.seconds[-1], "warnings": [], "layers": []}
        return BuiltEngine(super().build(model, options, **said).plan, story)


def rows(gpu: Any, target: TensorRtTarget, builder: PlayedBuilder) -> list[dict[str, Any]]:
    target.__dict__["_builder"] = builder
    found: list[dict[str, Any]] = gpu.target_rows(target, GRAPHS, quick=True)
    return found


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRtTarget:
    return played_target(monkeypatch, tmp_path)


def test_a_row_says_how_much_faster_a_timing_cache_makes_the_same_build(
    gpu: Any, target: TensorRtTarget, tmp_path: Path
) -> None:
    builder = Timing()
    row, _ = rows(gpu, target, builder)
    # Opened without and with a cache, which starts the worker; then built with another one.
    assert builder.seconds[:4] == [6.0, 1.5, 6.0, 1.5]
    assert (row["build_cold_s"], row["build_warm_s"], row["build_speedup"]) == (6.0, 1.5, 4.0)
    assert row["median_ms"] > 0
    assert row["device_memory_bytes"] == 4096
    assert not (tmp_path / "cache").exists()


def test_a_builder_that_keeps_no_timings_is_compared_with_nothing(
    gpu: Any, target: TensorRtTarget
) -> None:
    row, _ = rows(gpu, target, PlayedBuilder())
    assert (row["build_cold_s"], row["build_warm_s"], row["build_speedup"]) == (0.1, None, None)


def test_what_fails_is_a_row_with_its_reason_and_costs_no_other(
    gpu: Any, target: TensorRtTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = rows(gpu, target, Timing())
    assert "problem" not in first
    assert (second["precision"], second["batch"]) == ("bf16", 1)
    assert "cannot be loaded" in second["problem"]
    monkeypatch.setattr(gpu, "_builds", lambda *_: 1 / 0)
    row, _ = rows(gpu, target, Timing())
    assert row["problem"] == "ZeroDivisionError: division by zero"
    assert row["median_ms"] > 0


def test_a_pytorch_without_kernels_for_this_gpu_or_memory_is_rows_with_the_reason(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(module: Any, dtype: torch.dtype, *_: Any) -> dict[str, float]:
        if dtype == torch.float16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with DEBUG")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "_torch_measured", fails)
    found = gpu.torch_rows(torch.nn.Identity())
    assert [(row["runtime"], row["precision"]) for row in found] == [
        (runtime, precision)
        for precision in ("fp32", "fp16", "bf16")
        for runtime in ("torch eager", "torch graph")
    ]
    assert found[0]["problem"] == "RuntimeError: CUDA error: no kernel image is available"
    assert found[2]["problem"].startswith("OutOfMemoryError: CUDA out of memory")
    assert gpu.table(found).row_count == 6
