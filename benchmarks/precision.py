"""Accuracy and speed in fp32, fp16, bf16 and int8, beside onnxruntime's and NVIDIA's quantisers.

    python benchmarks/precision.py --flowers DIR --cifar10 DIR --runs DIR [--only PART …]
                                   [--images N] [--estimators NAME …] [--quick] [--out FILE]

Two networks are trained (about 25 minutes on two cores; kept in ``--runs``) and quantised with the
same 128 calibration images by all. A graph counts three times: as written (Q/DQ pairs computed in
fp32), on onnxruntime-cpu and on openvino-cpu with their integer kernels. Per peer stands its best:
quantize_static per channel with its three methods, with and without ``reduce_range``; modelopt's
``max`` and ``entropy``. Against each of them ours, as ``fbn export`` writes it for the runtime by
default, is held image by image: how many only ours has right, how many only the peer, and the
exact McNemar test of the two (p, two-sided). Then speed of a MobileNet at 224 pixels, batch 1, one
thread, measured in turns; then what a calibration with 500 images costs. Parts that are not run
(``--only``) keep what stands in the file; each names the machine that it was measured on.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import onnx_ir as ir
import torch
from precision_networks import CASES, images, trained
from scipy.stats import binomtest

from fbn_deploy.data import ImageData, sample_indices
from fbn_deploy.export.calibration import calibrated
from fbn_deploy.export.estimators import DEFAULT, estimator, estimators
from fbn_deploy.export.folding import FLOAT16_LIMIT, fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.precision import (
    activations,
    one_sided,
    quantized_int8,
    typed_bf16,
    typed_fp16,
)
from fbn_deploy.export.precision.as_written import AsWritten
from fbn_deploy.files import read_json, write_json
from fbn_deploy.progress import Silent
from fbn_deploy.retrain.network import subnet
from fbn_deploy.supernet.definition import definition
from fbn_deploy.targets import ready_target, unsigned_activations
from fbn_deploy.targets._cpu import device_name

BATCH = 32
RUNTIMES = ("onnxruntime-cpu", "openvino-cpu")
PACKAGES = ("torch", "onnx", "onnxruntime-gpu", "openvino", "nvidia-modelopt")


def pixels(data: ImageData, split: Any, rows: torch.Tensor) -> list[np.ndarray]:
    return [
        data.normalize(split.batch(part)).contiguous().numpy() for part in torch.split(rows, BATCH)
    ]


def runner(model: bytes, where: str, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """Images of one batch → logits."""
    target = AsWritten() if where == AsWritten.name else ready_target(where)
    opened = target.open(model, batch=BATCH, threads=1, precision=precision)
    name = onnx.load_from_string(model).graph.input[0].name

    def run(x: np.ndarray) -> np.ndarray:
        padded = np.zeros((BATCH, *x.shape[1:]), np.float32)
        padded[: len(x)] = x
        return next(iter(opened.run({name: padded}).values()))[: len(x)]

    return run


def judged(
    model: bytes, precision: str, where: str, test: list[np.ndarray], labels: np.ndarray, truth: Any
) -> dict[str, Any]:
    """Top-1 and agreement with ``truth`` (fp32 logits) in per cent, relative error of logits,
    the logits themselves, and which images are ``right``."""
    run = runner(model, where, precision)
    logits = np.concatenate([run(x) for x in test])
    reference = logits if truth is None else truth
    difference = np.sqrt(((logits - reference) ** 2).mean() / (reference**2).mean())
    return {
        "top1": 100 * float((logits.argmax(1) == labels).mean()),
        "agreement": 100 * float((logits.argmax(1) == reference.argmax(1)).mean()),
        "error": float(difference),
        "logits": logits,
        "right": logits.argmax(1) == labels,
    }


def default_label(where: str) -> str:
    """The variant of ours that ``fbn export`` writes for a runtime by default."""
    levels = ready_target(where).int8_weight_levels
    return f"ours {DEFAULT} {levels}{' unsigned' if unsigned_activations([where]) else ''}"


def paired(ours: np.ndarray, peer: np.ndarray) -> dict[str, float]:
    """Images that only one of both has right, and McNemar's exact test of the difference."""
    only_ours, only_peer = int((ours & ~peer).sum()), int((peer & ~ours).sum())
    apart = only_ours + only_peer
    p = binomtest(only_ours, apart).pvalue if apart else 1.0
    return {"only_ours": only_ours, "only_peer": only_peer, "p": float(p)}


def by_onnxruntime(model: bytes, calibration: list[np.ndarray], quick: bool) -> dict[str, bytes]:
    """quantize_static, per channel, QDQ: method and range → model."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.batches, None)
            return None if x is None else {"images": x}

    found = {}
    methods = ("MinMax",) if quick else ("MinMax", "Entropy", "Percentile")
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, out = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
        source.write_bytes(model)
        quant_pre_process(str(source), str(prepared))
        for method in methods:
            for reduced in (False, True):
                name = f"onnxruntime {method}{' reduced' if reduced else ''}"
                try:
                    quantize_static(
                        str(prepared),
                        str(out),
                        Reader(),
                        quant_format=QuantFormat.QDQ,
                        per_channel=True,
                        reduce_range=reduced,
                        calibrate_method=CalibrationMethod[method],
                    )
                except Exception as error:
                    print(f"{name} does not work here: {type(error).__name__}: {str(error)[:150]}")
                    continue
                found[name] = out.read_bytes()
    return found


def by_modelopt(model: bytes, calibration: list[np.ndarray], quick: bool) -> dict[str, bytes]:
    """modelopt's ONNX int8; nothing, with the reason printed, where it does not work."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        source.write_bytes(model)
        for method in ("max",) if quick else ("max", "entropy"):
            try:
                from modelopt.onnx.quantization import quantize

                quantize(
                    str(source),
                    quantize_mode="int8",
                    calibration_data={"images": np.concatenate(calibration)},
                    calibration_method=method,
                    calibration_eps=["cpu"],
                    output_path=str(out),
                )
                found[f"modelopt {method}"] = out.read_bytes()
            except Exception as error:
                first = (str(error).strip().splitlines() or [""])[0]
                print(
                    f"modelopt {method} does not work here: {type(error).__name__}: {first[:150]}"
                )
    return found


def accuracy_case(name: str, data: ImageData, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every variant of one network on every runtime."""
    network = trained(name, data, arguments.runs)
    exported = onnx_from_module(network, CASES[name].resolution)
    folded = fold_affine(exported)[0]
    rows = sample_indices(data.train.labels, arguments.calibration_images, 0)
    calibration = pixels(data, data.train, rows)
    count = min(arguments.images, len(data.test))
    rows = sample_indices(data.test.labels, count, 0)
    test, labels = pixels(data, data.test, rows), data.test.labels[rows].numpy()
    methods = [estimator(name) for name in arguments.estimators]
    ranges = {
        unsigned: calibrated(
            folded,
            activations(folded),
            calibration,
            methods,
            count=sum(map(len, calibration)),
            data_hash="benchmark",
            reporter=Silent(),
            one_sided=one_sided(folded) if unsigned else (),
        )
        for unsigned in (False, True)
    }
    fp32 = ir.to_proto(folded).SerializeToString()
    fp16 = typed_fp16(fold_affine(exported, gauge_limit=FLOAT16_LIMIT)[0])
    models: dict[str, tuple[str, bytes]] = {
        "fp32": ("fp32", fp32),
        "fp16": ("fp16", ir.to_proto(fp16).SerializeToString()),
        "bf16": ("bf16", ir.to_proto(typed_bf16(folded)).SerializeToString()),
    }
    for method, levels, unsigned in itertools.product(methods, (127, 63), (False, True)):
        found = ranges[unsigned][method.name]
        made = quantized_int8(folded, found, weight_levels=levels, unsigned=unsigned)
        label = f"ours {method.name} {levels}{' unsigned' if unsigned else ''}"
        models[label] = ("int8", ir.to_proto(made).SerializeToString())
    peers = by_onnxruntime(fp32, calibration, arguments.quick)
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # it patches onnxruntime's quantiser
        peers |= pool.apply(by_modelopt, (fp32, calibration, arguments.quick))
    models |= {peer: ("int8", model) for peer, model in peers.items()}
    result: dict[str, Any] = {"images": count, "calibration_images": arguments.calibration_images}
    truth = None
    right: dict[tuple[str, str], np.ndarray] = {}
    print(f"\n{name}, {count} images\n{'':28}{'':16} top-1   agreement  error")
    for variant, (precision, model) in models.items():
        for where in (AsWritten.name, *RUNTIMES):
            try:
                found = judged(model, precision, where, test, labels, truth)
            except Exception as error:
                reason = str(error).splitlines()[0][:100]
                result.setdefault(variant, {})[where] = {"error_text": reason}
                continue
            logits, right[variant, where] = found.pop("logits"), found.pop("right")
            truth = logits if truth is None else truth
            result.setdefault(variant, {})[where] = found
            print(
                f"{variant:28}{where:16} {found['top1']:6.2f} {found['agreement']:9.2f} "
                f"{found['error']:9.4f}",
                flush=True,
            )
    result["against"] = {}
    for where in RUNTIMES:
        ours = default_label(where)
        pairs = {
            peer: paired(right[ours, where], right[peer, where])
            for peer in peers
            if (peer, where) in right
        }
        result["against"][where] = {"ours": ours, "peers": pairs}
        for peer, found in pairs.items():
            print(
                f"{where:16} only {ours}: {found['only_ours']}, only {peer}: "
                f"{found['only_peer']}, p = {found['p']:.2f}"
            )
    return result


def speed_case(quick: bool) -> dict[str, Any]:
    """Median latency of a MobileNet at 224 pixels, fp32, bf16 and int8, measured in turns."""
    made = definition("mobilenet", 224, {"width": 1.0})
    space = made.search_space(made.network(10, 0))
    architecture = space.architecture({decision.name: "mb3_k3" for decision in space.decisions})
    network = subnet(made, architecture, 10, fair_bn=True, seed=0).eval()
    folded = fold_affine(onnx_from_module(network, 224))[0]
    x = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype=np.float32)
    ranges = calibrated(
        folded,
        activations(folded),
        [x],
        [estimator("minmax")],
        count=8,
        data_hash="",
        reporter=Silent(),
    )["minmax"]
    result: dict[str, Any] = {}
    for name in RUNTIMES:
        target = ready_target(name)
        levels = target.int8_weight_levels
        models = {
            "fp32": folded,
            "bf16": typed_bf16(folded),
            "int8": quantized_int8(
                folded,
                ranges,
                weight_levels=levels,
                unsigned=unsigned_activations([name]),
            ),
        }
        sessions = {
            precision: target.open(
                ir.to_proto(model).SerializeToString(), batch=1, threads=1, precision=precision
            )
            for precision, model in models.items()
            if precision in target.precisions
        }
        times: dict[str, list[float]] = {precision: [] for precision in sessions}
        for number in range(15 if quick else 120):
            for precision, session in sessions.items():
                started = time.perf_counter()
                session.enqueue()
                if number >= 5:
                    times[precision].append(1e3 * (time.perf_counter() - started))
        medians = {precision: statistics.median(values) for precision, values in times.items()}
        result[name] = {"median_ms": medians, "runs": len(times["fp32"])}
        for precision, value in medians.items():
            ratio = medians["fp32"] / value
            result[name].setdefault("speedup", {})[precision] = ratio
            print(f"{name:16} {precision}: {value:7.3f} ms, {ratio:.2f} times fp32", flush=True)
    return result


def calibration_cost(data: ImageData, count: int) -> dict[str, float]:
    """Seconds and MB on top of the network for ``count`` images, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        case = CASES["mobilenet@flowers"]
        rows = sample_indices(data.full_train.labels, count, 0)
        return pool.apply(_cost, (case, data.full_train.batch(rows).numpy(), data.mean, data.std))


def _cost(case: Any, raw: np.ndarray, mean: Any, std: Any) -> dict[str, float]:
    made = case.definition()
    space = made.search_space(made.network(5, 0))
    network = subnet(made, space.parse(case.architecture), 5, fair_bn=True, seed=0).eval()
    folded = fold_affine(onnx_from_module(network, case.resolution))[0]
    scale = np.array(std, np.float32).reshape(1, 3, 1, 1) * 255
    shift = np.array(mean, np.float32).reshape(1, 3, 1, 1) * 255
    batches = ((raw[i : i + 8] - shift) / scale for i in range(0, len(raw), 8))
    gc.collect()
    before = _peak_mb(reset=True)
    started = time.perf_counter()
    calibrated(
        folded,
        activations(folded),
        batches,
        [estimator(DEFAULT)],
        count=len(raw),
        data_hash="",
        reporter=Silent(),
    )
    seconds = time.perf_counter() - started
    return {"images": len(raw), "seconds": seconds, "added_mb": _peak_mb(reset=False) - before}


def _peak_mb(*, reset: bool) -> float:
    """The largest resident memory since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flowers", required=True)
    parser.add_argument("--cifar10", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000, help="test images a network")
    parser.add_argument("--calibration-images", type=int, default=128)
    known = [*CASES, "speed", "cost"]
    parser.add_argument("--only", nargs="*", default=known, choices=known)
    names = [each.name for each in estimators()]
    parser.add_argument("--estimators", nargs="+", default=names, choices=names)
    parser.add_argument("--quick", action="store_true", help="200 images, default methods only")
    default = Path(__file__).parent / "results" / "precision.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images = min(arguments.images, 200)
        arguments.estimators = [DEFAULT]
    torch.set_num_threads(1)
    folders = {"flowers": arguments.flowers, "cifar10": arguments.cifar10}
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    machine = {
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "device": device_name(),
        "versions": versions,
        "load_at_start": os.getloadavg()[0],
    }
    stored = read_json(arguments.out) if arguments.out.exists() else {}
    before = stored.get("parts", {})  # a file of the former schema has none
    parts: dict[str, Any] = {}
    for name in arguments.only:
        if name in CASES:
            parts[name] = accuracy_case(name, images(name, folders), arguments)
        elif name == "speed":
            parts[name] = speed_case(arguments.quick)
        elif name == "cost":
            data = images("mobilenet@flowers", folders)
            parts[name] = calibration_cost(data, 100 if arguments.quick else 500)
            print(f"calibration: {parts[name]}")
        parts[name]["machine"] = machine
        write_json(arguments.out, {"schema": 2, "parts": {**before, **parts}})


if __name__ == "__main__":
    main()
