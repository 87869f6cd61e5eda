"""What runs on this machine's NVIDIA GPU, how fast and how near to the CPU's numbers.

    python benchmarks/gpu.py [--check] [--quick] [--out benchmarks/results/gpu-NAME.json]

One MobileNet of the ``mobilenet`` space (random architecture, seed 0, 224 pixels, folded) on
PyTorch (eager and as a CUDA graph), ``onnxruntime-cuda``, ``tensorrt`` and ``tensorrt-rtx``, in
every precision that each runs, at batch 1 and 32. PyTorch is timed by device events like the
engines: non-default stream, 200 ms of warm-up, median. INT8 ranges are made up: they decide what
is computed, not how long it takes.

States for each: median and p99, images a second, seconds to open without and with what the first
opening left in the cache (all of it: building, loading, warming up), device memory, the largest
relative error against ONNX Runtime on the CPU. What is not ready, or fails, is a row with its
reason. Without a GPU nothing is written, and the exit code is 2; ``--check`` only asks whether
there is one.

Of ``tensorrt`` also: the builder's own seconds from an empty timing cache and from the one that
this build left, in a worker that has built this engine before, and how many times as fast the
second is. TensorRT for RTX times no kernels while it builds and keeps no timings, so that there is
nothing to compare.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from fbn_deploy.errors import FBNError
from fbn_deploy.files import write_json
from fbn_deploy.targets import (
    EngineBuilder,
    EngineOptions,
    Session,
    Target,
    device_memory_bytes,
    ready_target,
    targets,
)
from fbn_deploy.targets._cuda import device_name, driver_problem

RESOLUTION, CLASSES = 224, 1000
BATCHES = (1, 32)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
WARMUP_S, RUNS = 0.2, 200
RESULTS = Path(__file__).parent / "results"


def gpu_targets() -> list[Target]:
    """Every target that needs the driver."""
    return [target for target in targets() if not target.name.endswith("-cpu")]


def network() -> Any:
    """The network as a module."""
    from fbn_deploy.retrain.network import subnet
    from fbn_deploy.supernet.definition import definition

    chosen = definition("mobilenet", RESOLUTION, {"width": 1.0})
    space = chosen.search_space(chosen.network(CLASSES, seed=0))
    architecture = space.sample(random.Random(0))
    return subnet(chosen, architecture, CLASSES, fair_bn=True, seed=0).eval()


def models(module: Any) -> dict[str, bytes]:
    """Precision → the folded network as ONNX."""
    import onnx_ir

    from fbn_deploy.export.folding import fold_affine
    from fbn_deploy.export.graph import onnx_from_module
    from fbn_deploy.export.precision import activations, quantized_int8, typed_bf16, typed_fp16
    from fbn_deploy.export.ranges import Ranges

    folded = fold_affine(onnx_from_module(module, RESOLUTION))[0]
    ranges = Ranges(dict.fromkeys(activations(folded), 3.0), {}, "made up", "", "", 1)
    graphs = {
        "fp32": folded,
        "fp16": typed_fp16(folded.clone()),
        "bf16": typed_bf16(folded.clone()),
        "int8": quantized_int8(folded.clone(), ranges),
    }
    return {name: onnx_ir.to_proto(graph).SerializeToString() for name, graph in graphs.items()}


def row(
    runtime: str, precision: str, batch: int, measured: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What was measured, or the problem that ended it: the other rows are written all the same."""
    about = {"runtime": runtime, "precision": precision, "batch": batch}
    try:
        return about | measured()
    except FBNError as error:
        return about | {"problem": str(error)}
    except Exception as error:  # whatever a runtime raises
        first = next(iter(str(error).splitlines()), "")
        return about | {"problem": f"{type(error).__name__}: {first}"}


def torch_rows(module: Any) -> list[dict[str, Any]]:
    """PyTorch, eager and captured, by device events."""
    import torch

    if not torch.cuda.is_available():
        return [{"runtime": "torch", "problem": "PyTorch sees no CUDA device"}]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    runtimes = {"torch eager": _eager, "torch graph": _captured}
    return [
        row(runtime, precision, batch, partial(_torch_measured, module, dtype, batch, prepare))
        for precision, dtype in types.items()
        for batch in BATCHES
        for runtime, prepare in runtimes.items()
    ]


def _torch_measured(module: Any, dtype: Any, batch: int, prepare: Any) -> dict[str, float]:
    import torch

    layout = torch.channels_last
    network = copy.deepcopy(module).to("cuda", dtype, memory_format=layout)
    images = torch.randn(batch, 3, RESOLUTION, RESOLUTION, device="cuda", dtype=dtype)
    images = images.to(memory_format=layout)
    stream = torch.cuda.Stream()
    with torch.inference_mode(), torch.cuda.stream(stream):
        enqueue = prepare(torch, stream, lambda: network(images))
        return _summed(_event_times(torch, stream, enqueue), batch)


def _eager(torch: Any, stream: Any, run: Callable[[], Any]) -> Callable[[], Any]:
    return run


def _captured(torch: Any, stream: Any, run: Callable[[], Any]) -> Callable[[], Any]:
    """``run`` as a CUDA graph, captured after what happens in first runs only."""
    _warm_up(stream, run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    replay: Callable[[], Any] = graph.replay
    return replay


def _event_times(torch: Any, stream: Any, enqueue: Any) -> list[float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _warm_up(stream, enqueue)
    times = []
    for _ in range(RUNS):
        start.record(stream)
        enqueue()
        end.record(stream)
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def _warm_up(stream: Any, enqueue: Callable[[], Any]) -> None:
    deadline = time.perf_counter() + WARMUP_S
    while time.perf_counter() < deadline:
        enqueue()
        stream.synchronize()


def _summed(times: list[float], batch: int) -> dict[str, float]:
    median = statistics.median(times)
    return {
        "median_ms": median,
        "p99_ms": sorted(times)[int(0.99 * len(times))],
        "images_per_s": 1000 * batch / median,
    }


def target_rows(target: Target, graphs: dict[str, bytes], quick: bool) -> list[dict[str, Any]]:
    """One target in every precision and batch; a problem is a row of its own."""
    if problem := target.missing():
        return [{"runtime": target.name, "problem": problem}]
    rows = []
    for precision in PRECISIONS:
        if precision not in target.precisions:
            continue
        for batch in BATCHES:
            model, about = graphs[precision], (target.name, precision, batch)
            found = row(*about, partial(_measured, target, model, precision, batch, quick))
            if isinstance(target, EngineBuilder) and "problem" not in found:
                found |= row(*about, partial(_builds, target, model, precision, batch))
            rows.append(found)
    return rows


@contextlib.contextmanager
def empty_cache() -> Iterator[Path]:
    """A cache folder of its own, so that cold is cold."""
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {"FBN_CACHE_DIR": folder}),
    ):
        yield Path(folder)


def _builds(target: EngineBuilder, model: bytes, precision: str, batch: int) -> dict[str, Any]:
    """The builder's seconds without timings and, where it keeps any, with those that it kept.

    The target has built this engine before, to open it: neither build starts the worker, nor is
    the first to load a kernel.
    """
    with empty_cache() as folder:
        path = folder / "model.onnx"
        path.write_bytes(model)

        def build_s() -> float:
            report = target.engine_from_onnx(
                path,
                target.engine_path(path),
                precision=precision,
                options=EngineOptions(batch=batch),
            )
            return report.seconds

        cold_s = build_s()
        warm_s = build_s() if any(folder.rglob("*.timing")) else None
    return {
        "build_cold_s": cold_s,
        "build_warm_s": warm_s,
        "build_speedup": cold_s / warm_s if warm_s else None,
    }


def _measured(
    target: Target, model: bytes, precision: str, batch: int, quick: bool
) -> dict[str, Any]:
    from fbn_deploy.latency.protocol import CONFIRM, QUICK
    from fbn_deploy.latency.timing import time_runs

    def opened() -> tuple[float, Session]:
        started = time.perf_counter()
        session = target.open(model, batch=batch, threads=1, precision=precision)
        return time.perf_counter() - started, session

    with empty_cache():
        cold_s, session = opened()
        session.close()
        warm_s, session = opened()
        with session:
            timing = time_runs(session.enqueue, QUICK if quick else CONFIRM)
            error = _error(session, model, batch) if precision == "fp32" else None
            memory = device_memory_bytes(session)
            graph = getattr(session, "uses_graph", None)
    return {
        "median_ms": timing.value_ms,
        "p99_ms": timing.p99_ms,
        "images_per_s": 1000 * batch / timing.value_ms,
        "open_cold_s": cold_s,
        "open_warm_s": warm_s,
        "device_memory_bytes": memory,
        "cuda_graph": graph,
        "relative_error": error,
        "disturbed": list(timing.disturbed),
    }


def _error(session: Any, model: bytes, batch: int) -> float:
    """Largest difference to ONNX Runtime on the CPU over its largest output."""
    import numpy as np

    shape = session.input_shapes["images"]
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with ready_target("onnxruntime-cpu").open(model, batch=batch, threads=4) as cpu:
        expected = cpu.run({"images": images})["logits"]
    found = session.run({"images": images})["logits"]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def table(rows: list[dict[str, Any]]) -> Table:
    columns = {
        "precision": "{}", "batch": "{}", "median_ms": "{:.3f}", "p99_ms": "{:.3f}",
        "images_per_s": "{:,.0f}", "open_cold_s": "{:.1f}", "open_warm_s": "{:.1f}",
        "build_cold_s": "{:.1f}", "build_warm_s": "{:.1f}", "build_speedup": "{:.1f}",
        "relative_error": "{:.1e}",
    }  # fmt: skip
    shown = Table("runtime", *(name.replace("_", " ") for name in columns), "problem", box=None)
    for row in rows:
        cells = [
            style.format(row[name]) if row.get(name) is not None else ""
            for name, style in columns.items()
        ]
        shown.add_row(row["runtime"], *cells, row.get("problem", ""))
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter timing")
    parser.add_argument("--check", action="store_true", help="only say what is ready")
    parser.add_argument("--out", type=Path)
    said = parser.parse_args()
    for target in gpu_targets():
        print(f"{target.name}: {target.missing() or 'ready'}")
    if problem := driver_problem():
        print(f"Nothing was measured: {problem}.", file=sys.stderr)
        return 2
    if said.check:
        return 0
    module = network()
    graphs = models(module)
    rows = torch_rows(module)
    for target in gpu_targets():
        rows += target_rows(target, graphs, said.quick)
    ready = [target for target in gpu_targets() if not target.missing()]
    content = {
        "schema": 1,
        "device": device_name(),
        "versions": {name: v for target in ready for name, v in target.versions().items()},
        "network": f"mobilenet, width 1.0, {RESOLUTION} pixels, random architecture of seed 0",
        "quick": said.quick,
        "rows": rows,
    }
    Console(width=200).print(table(rows))
    slug = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
    path = said.out or RESULTS / f"gpu-{slug}.json"
    write_json(path, content)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
