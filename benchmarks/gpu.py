"""What runs on this machine's NVIDIA GPU, how fast and how near to the CPU's numbers.

    python benchmarks/gpu.py [--check] [--quick] [--out benchmarks/results/gpu-NAME.json]

One MobileNet of the ``mobilenet`` space (random architecture, seed 0, 224 pixels, folded) on
PyTorch (eager and as a CUDA graph), ``onnxruntime-cuda``, ``tensorrt`` and ``tensorrt-rtx``, in
every precision that each runs, at batch 1 and 32. PyTorch is timed by device events like the
engines: non-default stream, 200 ms of warm-up, median. INT8 ranges are made up: they decide what
is computed, not how long it takes.

States for each: median and p99, images a second, seconds to open cold and warm (with TensorRT:
without and with its timing cache), device memory, the largest relative error against ONNX Runtime
on the CPU. What is not ready is a row with its reason. Without a GPU nothing is written, and the
exit code is 2; ``--check`` only asks whether there is one.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fbn_deploy.errors import FBNError
from fbn_deploy.files import write_json
from fbn_deploy.targets import Target, ready_target, targets
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


def torch_rows(module: Any) -> list[dict[str, Any]]:
    """PyTorch, eager and captured, by device events."""
    import torch

    if not torch.cuda.is_available():
        return [{"runtime": "torch", "problem": "PyTorch sees no CUDA device"}]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    rows = []
    for precision, dtype in types.items():
        on_gpu = module.to("cuda", dtype, memory_format=torch.channels_last)
        for batch in BATCHES:
            images = torch.randn(batch, 3, RESOLUTION, RESOLUTION, device="cuda", dtype=dtype)
            images = images.to(memory_format=torch.channels_last)
            for runtime, times in _torch_times(torch, on_gpu, images).items():
                rows.append({
                    "runtime": runtime, "precision": precision, "batch": batch,
                    **_summed(times, batch),
                })  # fmt: skip
    module.to("cpu", torch.float32)
    return rows


def _torch_times(torch: Any, module: Any, images: Any) -> dict[str, list[float]]:
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.stream(stream):
        eager = _event_times(torch, stream, lambda: module(images))
        with torch.cuda.graph(graph, stream=stream):
            module(images)
        captured = _event_times(torch, stream, graph.replay)
    return {"torch eager": eager, "torch graph": captured}


def _event_times(torch: Any, stream: Any, enqueue: Any) -> list[float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    deadline = time.perf_counter() + WARMUP_S
    while time.perf_counter() < deadline:
        enqueue()
        stream.synchronize()
    times = []
    for _ in range(RUNS):
        start.record(stream)
        enqueue()
        end.record(stream)
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


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
            row = {"runtime": target.name, "precision": precision, "batch": batch}
            try:
                measured = _measured(target, graphs[precision], precision, batch, quick)
                rows.append(row | measured)
            except FBNError as error:
                rows.append(row | {"problem": str(error)})
    return rows


def _measured(
    target: Target, model: bytes, precision: str, batch: int, quick: bool
) -> dict[str, Any]:
    from fbn_deploy.latency.protocol import CONFIRM, QUICK
    from fbn_deploy.latency.timing import time_runs

    opened_s = []
    for last in (False, True):
        started = time.perf_counter()
        session = target.open(model, batch=batch, threads=1, precision=precision)
        opened_s.append(time.perf_counter() - started)
        if not last:
            session.close()
    with session:
        timing = time_runs(session.enqueue, QUICK if quick else CONFIRM)
        error = _error(session, model, batch) if precision == "fp32" else None
        memory = getattr(session, "device_memory_bytes", None)
        graph = getattr(session, "uses_graph", None)
    return {
        "median_ms": timing.value_ms,
        "p99_ms": timing.p99_ms,
        "images_per_s": 1000 * batch / timing.value_ms,
        "open_cold_s": opened_s[0],
        "open_warm_s": opened_s[1],
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
    with tempfile.TemporaryDirectory() as cache:  # cold is cold
        os.environ["FBN_CACHE_DIR"] = cache
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
    Console(width=160).print(table(rows))
    slug = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
    path = said.out or RESULTS / f"gpu-{slug}.json"
    write_json(path, content)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
