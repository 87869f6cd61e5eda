"""What folding is worth in milliseconds, against its peers and against no BatchNorm at all.

    python benchmarks/folding.py [--networks 30] [--seconds 2] [--only CASE …] [--out FILE]

Variants: (a) the unfolded export, (b) onnxslim, (c) onnxsim, (d) onnxscript's optimizer, (e) ours
(in the form that ``fbn export`` gives a file for that runtime),
(f) the same architecture without the inserted BatchNorms (plain export), and (f+) that one folded
by ours as well. All run in one process on one thread, in turns that are shuffled anew each round;
what is compared are medians over the same rounds. BatchNorms as after training: γ from 0.5 to 1.5.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript.optimizer
import test_folding_networks as networks
import torch
import torchvision

from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.folding.check import session
from fbn_deploy.export.graph import closed, onnx_from_module, onnx_from_supernet
from fbn_deploy.files import write_json
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet
from fbn_deploy.targets import shifts_as_convolution

PEERS = ("unfolded", "onnxslim", "onnxsim", "onnxscript")
VARIANTS = (*PEERS, "ours", "bare", "bare+")
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "nasbench201@32": ("nasbench201", 32, {}),
    "nasbench201@224": ("nasbench201", 224, {}),
    "mobilenet@64": ("mobilenet", 64, {"width": 0.5}),
}
RUNTIMES = ("onnxruntime-cpu", "openvino-cpu")
WARMUP, LEAST, MOST = 3, 15, 200  # runs
PACKAGES = ("onnxruntime-gpu", "openvino", "onnxslim", "onnxsim", "onnxscript", "torch", "onnx-ir")


def by_peers(model: ir.Model) -> dict[str, onnx.ModelProto]:
    """The unfolded model, and what each peer makes of it."""
    found = {"unfolded": ir.to_proto(model)}
    try:
        import onnxslim

        found["onnxslim"] = onnxslim.slim(ir.to_proto(model))
    except ImportError:
        print("onnxslim is not installed")
    try:
        import onnxsim

        simplified = onnxsim.simplify(ir.to_proto(model))
        found["onnxsim"] = simplified[0] if isinstance(simplified, tuple) else simplified
    except ImportError:
        print("onnxsim is not installed")
    copy = model.clone()
    onnxscript.optimizer.optimize(copy)
    found["onnxscript"] = ir.to_proto(copy)
    return found


def by_us(model: ir.Model) -> dict[str, onnx.ModelProto]:
    """What folding makes of it, in each runtime's form."""
    return {
        runtime: ir.to_proto(fold_affine(model, as_convolution=shifts_as_convolution([runtime]))[0])
        for runtime in RUNTIMES
    }


def runners(proto: onnx.ModelProto, x: np.ndarray) -> dict[str, Callable[[], object]]:
    """One call per runtime: ONNX Runtime and OpenVINO on one CPU thread, float32."""
    import openvino

    content, name = proto.SerializeToString(), proto.graph.input[0].name
    run = session(content)
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(core.read_model(content), "CPU", options).create_infer_request()
    return {
        "onnxruntime-cpu": lambda: run.run(None, {name: x}),
        "openvino-cpu": lambda: request.infer({name: x}, share_inputs=True),
    }


def race(
    models: dict[str, onnx.ModelProto],
    ours: dict[str, onnx.ModelProto],
    x: np.ndarray,
    seconds: float,
) -> dict[str, Any]:
    """Median latency in ms of every model on every runtime, measured in turns; ``ours`` has one
    for each runtime."""
    calls = {
        (runtime, variant): call
        for variant, proto in models.items()
        for runtime, call in runners(proto, x).items()
    }
    for runtime, proto in ours.items():
        calls[runtime, "ours"] = runners(proto, x)[runtime]
    for call in calls.values():
        for _ in range(WARMUP):
            call()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    rng, order, end, rounds = random.Random(0), list(calls), time.perf_counter() + seconds, 0
    while rounds < LEAST or (time.perf_counter() < end and rounds < MOST):
        rng.shuffle(order)
        for key in order:
            start = time.perf_counter()
            calls[key]()
            times[key].append((time.perf_counter() - start) * 1e3)
        rounds += 1
    found: dict[str, Any] = {"rounds": rounds, "load": os.getloadavg()[0]}
    for (runtime, variant), values in times.items():
        found.setdefault(runtime, {})[variant] = statistics.median(values)
    return found


def remaining(proto: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in proto.graph.node)


def space_case(space: str, resolution: int, options: dict[str, Any], count: int, seconds: float):
    supernets = {}
    for bn in ("fair", "conv-only"):
        made = build_supernet(definition(space, resolution, options), 10, bn=bn)
        networks.randomize_batchnorms(made.network, 0, "trained")
        supernets[bn] = (made, onnx_from_supernet(made, 1))
    x = np.random.default_rng(0).standard_normal((1, 3, resolution, resolution)).astype(np.float32)
    rng, rows = random.Random(0), []
    for _ in range(count):
        architecture = supernets["fair"][0].space.sample(rng)
        fair = closed(supernets["fair"][1], architecture)
        models = by_peers(fair)
        bare = closed(supernets["conv-only"][1], architecture)
        models |= {"bare": ir.to_proto(bare), "bare+": ir.to_proto(fold_affine(bare)[0])}
        rows.append(
            {
                "architecture": dict(architecture),
                "batchnorm_of_peers": remaining(models["onnxscript"]),
            }
            | race(models, by_us(fair), x, seconds)
        )
    return rows


def densenet_case(seconds: float, repeats: int = 3):
    module = torchvision.models.densenet121(weights=None)
    networks.randomize_batchnorms(module, 0, "trained")
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    model = onnx_from_module(module, 224)
    start = time.perf_counter()
    fold_affine(model)
    folding = time.perf_counter() - start
    models, ours = by_peers(model), by_us(model)
    return [
        {"fold_seconds": folding, "batchnorm_of_peers": remaining(models["onnxscript"])}
        | race(models, ours, x, seconds)
        for _ in range(repeats)
    ]


def summary(rows: list[dict[str, Any]], runtime: str) -> dict[str, Any]:
    """Ratios of ours to the bare architecture and to the best peer, over the networks."""
    found: dict[str, Any] = {
        "networks": len(rows),
        "ours_ms": statistics.median(row[runtime]["ours"] for row in rows),
    }
    for name in ("bare", "bare+"):
        ratios = [row[runtime]["ours"] / row[runtime][name] for row in rows if name in row[runtime]]
        if ratios:
            found[f"ours/{name}"] = {"median": statistics.median(ratios), "max": max(ratios)}
    behind = [row for row in rows if row["batchnorm_of_peers"]]
    ratios = [
        row[runtime]["ours"] / min(row[runtime][p] for p in PEERS if p in row[runtime])
        for row in behind
    ]
    if ratios:
        found["ours/best peer"] = {
            "networks": len(behind),
            "median": statistics.median(ratios),
            "max": max(ratios),
        }
    for peer in PEERS:
        one = [row[runtime]["ours"] / row[runtime][peer] for row in behind if peer in row[runtime]]
        if one:
            found[f"ours/{peer}"] = {"median": statistics.median(one), "max": max(one)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=2.0, help="of races for each network")
    parser.add_argument("--only", nargs="*", default=[*CASES, "densenet121@224"])
    default = Path(__file__).parent / "results" / "folding.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "schema": 1,
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "cpu": _cpu(),
        "threads": 1,
        "batch": 1,
        "versions": {name: _version(name) for name in PACKAGES},
        "load_at_start": os.getloadavg()[0],
        "cases": {},
    }
    print(f"{'case':18} {'runtime':16} {'ratio':16} median    max     n")
    for name in arguments.only:
        if name in CASES:
            rows = space_case(*CASES[name], arguments.networks, arguments.seconds)
        else:
            rows = densenet_case(10 * arguments.seconds)
        summaries = {r: summary(rows, r) for r in RUNTIMES}
        result["cases"][name] = {"summary": summaries, "networks": rows}
        for runtime, found in summaries.items():
            for ratio, value in found.items():
                if isinstance(value, dict):
                    n = value.get("networks", found["networks"])
                    print(
                        f"{name:18} {runtime:16} {ratio:16} "
                        f"{value['median']:6.3f} {value['max']:6.3f} {n:5}",
                        flush=True,
                    )
        write_json(arguments.out, result)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else 'unknown'}, {os.cpu_count()} logical CPUs"


if __name__ == "__main__":
    main()
