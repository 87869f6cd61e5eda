"""How well our timing repeats itself in fresh processes, and agrees with other harnesses.

    python benchmarks/timing.py [--processes 12] [--pairs 6] [--out benchmarks/results/timing.json]

1. Reproducibility: networks of about 0.1, 0.5 and 3 ms, each protocol, each ready CPU target, in
   new processes, three in a row and then the next series, so that each spreads over the whole run.
   Stated: the relative standard deviation and range of the medians, and of the medians divided by
   the time of a fixed piece of work measured meanwhile (``reference_us``); how often the intervals
   covered the series' median; how often the ``upper_ms`` of a confirmation (three processes in a
   row) held for the median of processes of other turns, and how much of it that median used:
   without and with the stretch to a slow machine (``slowdown.py``), whose speed is then known from
   all the quick measurements.
2. Agreement: OpenVINO's benchmark_app and a plain ``session.run`` loop on ONNX Runtime, in turns
   with ours; the median over pairs of the ratio theirs / ours. benchmark_app reads the clock
   inside OpenVINO, ours includes the Python call around it: about 4 µs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from fbn_deploy.files import write_json
from fbn_deploy.latency.meter import Confirmation, LatencyMeter
from fbn_deploy.latency.record import LatencyRecord, utc_now
from fbn_deploy.latency.slowdown import slow_reference_us
from fbn_deploy.targets import ready_target, targets

# Name → width, inverted residual blocks, image size.
NETWORKS = {"0.1 ms": (8, 4, 32), "0.5 ms": (24, 8, 32), "3 ms": (32, 12, 112)}
PROTOCOLS = ("quick", "confirm")
CONFIRMING = 3  # processes of a confirmation, as LatencyMeter's default
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PLAIN_SECONDS = 2.0


def inverted_residuals(width: int, blocks: int, resolution: int) -> bytes:
    """A MobileNet-like network as ONNX: every fourth block halves the image, doubles the width."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def conv(x: str, shape: tuple[int, int, int], stride: int, groups: int, relu: bool) -> str:
        inputs, outputs, kernel = shape
        name = f"conv{len(nodes)}"
        values = rng.standard_normal((outputs, inputs // groups, kernel, kernel)) / 10
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"{name}.w"))
        nodes.append(
            helper.make_node(
                "Conv",
                [x, f"{name}.w"],
                [name],
                name=name,
                kernel_shape=[kernel, kernel],
                strides=[stride, stride],
                pads=[kernel // 2] * 4,
                group=groups,
            )
        )
        if relu:
            nodes.append(helper.make_node("Relu", [name], [f"{name}.r"], name=f"{name}.relu"))
        return f"{name}.r" if relu else name

    x, channels = conv("x", (3, width, 3), 1 if resolution < 64 else 2, 1, True), width
    for block in range(blocks):
        stride = 2 if block % 4 == 3 else 1
        wide, out = channels * 3, channels * stride
        y = conv(x, (channels, wide, 1), 1, 1, True)
        y = conv(y, (wide, wide, 3), stride, wide, True)
        y = conv(y, (wide, out, 1), 1, 1, False)
        if stride == 1:
            nodes.append(helper.make_node("Add", [x, y], [f"sum{block}"], name=f"add{block}"))
            y = f"sum{block}"
        x, channels = y, out
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pool"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["y"], name="flatten"))
    image = [1, 3, resolution, resolution]
    graph = helper.make_graph(
        nodes,
        "inverted_residuals",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def ours(path: Path, target: str, protocol: str) -> LatencyRecord:
    """Our measurement in a fresh process."""
    answer = this_script("--one", str(path), target, protocol)
    return LatencyRecord.from_json(json.loads(answer))


def plain_loop_ms(path: Path) -> float:
    """Median of a plain ``session.run`` loop on ONNX Runtime in a fresh process, milliseconds."""
    return float(this_script("--plain", str(path)))


def benchmark_app_ms(path: Path) -> float:
    """Median that OpenVINO's benchmark_app prints for the same threads and precision."""
    command = [sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()"]
    options = "-d CPU -api sync -hint none -nstreams 1 -nthreads 1 -infer_precision f32 -ip f32"
    arguments = ["-m", str(path), *options.split(), "-pin", "NO", "-t", f"{PLAIN_SECONDS:.0f}"]
    text = subprocess.run(
        command + arguments, capture_output=True, text=True, check=True, env=os.environ | ONE_THREAD
    ).stdout
    found = re.search(r"Median:\s*([\d.]+) (ms|us)", text)
    if found is None:
        raise RuntimeError(f"benchmark_app printed no median:\n{text}")
    return float(found.group(1)) / (1.0 if found.group(2) == "ms" else 1e3)


def this_script(*arguments: str) -> str:
    """The output of this script in a fresh process."""
    return subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | ONE_THREAD,
    ).stdout


def run_one(path: Path, target: str, protocol: str) -> None:
    record = LatencyMeter(ready_target(target)).measure(path, protocol)
    print(json.dumps(record.as_json()))


def run_plain(path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    times_ms: list[float] = []
    end_s = time.perf_counter() + PLAIN_SECONDS
    while time.perf_counter() < end_s:
        start_s = time.perf_counter()
        session.run(None, feeds)
        times_ms.append((time.perf_counter() - start_s) * 1e3)
    print(statistics.median(times_ms[len(times_ms) // 10 :]))


def bounds(series: list[LatencyRecord], key: str) -> dict[str, Any]:
    """How the ``upper_ms`` of three processes in a row did for those of other turns."""
    used = [
        other.value_ms / Confirmation(tuple(series[i : i + CONFIRMING])).upper_ms
        for i in range(0, len(series), CONFIRMING)
        for other in series[:i] + series[i + CONFIRMING :]
    ]
    return {
        f"{key}_held_for_others": sum(share <= 1 for share in used) / len(used),
        f"{key}_used_by_others": statistics.median(used),
    }


def reproducibility(series: list[LatencyRecord], known_us: list[float]) -> dict[str, Any]:
    """Statistics of one series; fractions unless named otherwise. ``known_us`` are the machine's
    reference times that the stretched bound knows."""
    values = [record.value_ms for record in series]
    scaled = [record.value_ms / record.timing.reference_us for record in series]
    center = statistics.median(values)
    covered = sum(r.timing.low_ms <= center <= r.timing.high_ms for r in series)
    slow_us = slow_reference_us(known_us)
    stretched = [replace(record, slow_reference_us=slow_us) for record in series]
    return {
        "median_ms": center,
        "std": statistics.stdev(values) / statistics.mean(values),
        "range": max(values) / min(values) - 1,
        "std_over_reference": statistics.stdev(scaled) / statistics.mean(scaled),
        "interval_covers_series_median": covered / len(series),
        **bounds(series, "upper"),
        **bounds(stretched, "stretched_upper"),
        "disturbed": sum(record.disturbed for record in series) / len(series),
        "n": statistics.median(record.timing.n for record in series),
        "records": [record.as_json() for record in series],
    }


def reproducibilities(
    series: dict[tuple[str, str, str], list[LatencyRecord]],
) -> list[dict[str, Any]]:
    """The rows of the first table."""
    known_us = [
        record.timing.reference_us
        for (_, _, protocol), records in series.items()
        if protocol == "quick"
        for record in records
    ]
    return [
        {
            "network": network,
            "target": target,
            "protocol": protocol,
            **reproducibility(records, known_us),
        }
        for (network, target, protocol), records in series.items()
    ]


def measured_series(
    paths: dict[str, Path], names: list[str], processes: int, console: Console
) -> dict[tuple[str, str, str], list[LatencyRecord]]:
    series: dict[tuple[str, str, str], list[LatencyRecord]] = {}
    turns = processes // CONFIRMING
    for turn in range(turns):
        console.print(f"turn {turn + 1} of {turns}, {CONFIRMING} processes of each series")
        for network, path in paths.items():
            for target in names:
                for protocol in PROTOCOLS:
                    records = [ours(path, target, protocol) for _ in range(CONFIRMING)]
                    series.setdefault((network, target, protocol), []).extend(records)
    return series


def agreement(paths: dict[str, Path], names: list[str], pairs: int) -> list[dict[str, Any]]:
    harnesses = {
        "onnxruntime-cpu": ("plain session.run loop", plain_loop_ms),
        "openvino-cpu": ("benchmark_app", benchmark_app_ms),
    }
    rows = []
    for network, path in paths.items():
        for target in names:
            harness, measure = harnesses[target]
            found = [(ours(path, target, "quick").value_ms, measure(path)) for _ in range(pairs)]
            rows.append(
                {
                    "network": network,
                    "target": target,
                    "harness": harness,
                    "ours_ms": statistics.median(mine for mine, _ in found),
                    "theirs_ms": statistics.median(theirs for _, theirs in found),
                    "ratio": statistics.median(theirs / mine for mine, theirs in found),
                    "pairs": pairs,
                }
            )
    return rows


def printed(result: dict[str, Any], console: Console) -> None:
    columns = (
        ("median_ms", "ms", "{:.3f}"),
        ("std", "std", "{:.1%}"),
        ("range", "range", "{:.0%}"),
        ("std_over_reference", "std / ref", "{:.1%}"),
        ("interval_covers_series_median", "covers", "{:.0%}"),
        ("upper_held_for_others", "held", "{:.0%}"),
        ("upper_used_by_others", "used", "{:.0%}"),
        ("stretched_upper_held_for_others", "stretched", "{:.0%}"),
        ("stretched_upper_used_by_others", "used", "{:.0%}"),
        ("disturbed", "disturbed", "{:.0%}"),
        ("n", "runs", "{:.0f}"),
    )
    table = Table(title=f"{result['processes']} fresh processes a row", box=None)
    for heading in ("network", "target", "protocol", *(column[1] for column in columns)):
        table.add_column(heading)
    for row in result["reproducibility"]:
        numbers = [form.format(row[key]) for key, _, form in columns]
        table.add_row(row["network"], row["target"], row["protocol"], *numbers)
    console.print(table)
    table = Table(title="theirs / ours", box=None)
    for heading in ("network", "target", "harness", "ours ms", "theirs ms", "ratio", "pairs"):
        table.add_column(heading)
    for row in result["agreement"]:
        table.add_row(
            row["network"],
            row["target"],
            row["harness"],
            f"{row['ours_ms']:.3f}",
            f"{row['theirs_ms']:.3f}",
            f"{row['ratio']:.3f}",
            str(row["pairs"]),
        )
    console.print(table)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    low, high = result["load"]
    console.print(f"{result['device']}; {versions}; one thread; load {low:.1f} to {high:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=12, help="of each series: 6, 9, …")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/timing.json")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.processes % CONFIRMING or arguments.processes < 2 * CONFIRMING:
        parser.error(f"--processes is a multiple of {CONFIRMING}, from {2 * CONFIRMING} on")
    if arguments.one:
        return run_one(Path(arguments.one[0]), arguments.one[1], arguments.one[2])
    if arguments.plain:
        return run_plain(arguments.plain)
    console = Console(width=130)
    ready = [t for t in targets() if t.name.endswith("-cpu") and t.missing() is None]
    names = [target.name for target in ready]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{i}.onnx" for i, name in enumerate(NETWORKS)}
        for name, path in paths.items():
            path.write_bytes(inverted_residuals(*NETWORKS[name]))
        series = measured_series(paths, names, arguments.processes, console)
        agreed = agreement(paths, names, arguments.pairs)
    loads = [record.timing.load for records in series.values() for record in records]
    result = {
        "schema": 1,
        "date": utc_now(),
        "device": ready[0].device(),
        "versions": {k: v for target in ready for k, v in target.versions().items()},
        "threads": 1,
        "load": [min(loads), max(loads)],
        "processes": arguments.processes,
        "reproducibility": reproducibilities(series),
        "agreement": agreed,
    }
    write_json(arguments.out, result)
    printed(result, console)
    return None


if __name__ == "__main__":
    main()
