"""Run directories of every kind, built from small JSON objects."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from test_latency_cache import CONDITIONS, record

from fbn_deploy.latency.record import Conditions

CHAIN = {"stage1.0": "mb3_k3", "stage1.1": "identity", "stage2.0": "mb6_k5"}
NB201 = {
    "1<-0": "nor_conv_3x3", "2<-0": "none", "2<-1": "skip_connect",
    "3<-0": "avg_pool_3x3", "3<-1": "nor_conv_1x1", "3<-2": "nor_conv_3x3",
}  # fmt: skip
DARTS = {
    f"{cell}.{node}{slot}": f"{op}~{source}"
    for cell in ("normal", "reduce")
    for node, slot, op, source in (
        (2, "a", "sep_conv_3x3", 0), (2, "b", "sep_conv_3x3", 1),
        (3, "a", "skip_connect", 0), (3, "b", "dil_conv_5x5", 2),
        (4, "a", "max_pool_3x3", 1), (4, "b", "sep_conv_5x5", 3),
        (5, "a", "none", 0), (5, "b", "sep_conv_3x3", 2),
    )
}  # fmt: skip
NB101 = {
    f"{i}->{j}": "on" if (i, j) in {(0, 1), (0, 2), (1, 2), (1, 6), (2, 6)} else "off"
    for i in range(7)
    for j in range(i + 1, 7)
} | {f"op{j}": ("conv3x3-bn-relu", "maxpool3x3")[j % 2] for j in range(1, 6)}

LATENCY = {"kind": "latency", "limit": 2.0, "unit": "ms", "target": "onnxruntime-cpu"}
FLOPS = {"kind": "flops", "limit": 40e6, "unit": "FLOPs", "target": None}


def write(path: Path, **content: Any) -> None:
    """One JSON file of schema 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, **content}))


def started(run: Path, space: str = "mobilenet", classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """A run that was told what to do, and did nothing yet."""
    write(
        run / "run.json",
        configuration={
            "space": {"name": space, "resolution": 32, "options": {"width": 0.5}},
            "data": {"spec": "digits", "fingerprint": "ab12"},
            "bn": "fair",
            "seed": 3,
            "supernet": {"epochs": None, "batch_size": 64, "train": "bn"},
        },
        versions={"python": "3.11", "torch": "2.9"},
        device="A processor",
    )
    write(run / "space.json", name=space, classes=list(classes), size=1000, decisions={})
    return run


def candidate(
    choices: dict[str, str], rank: float, latency: dict[str, Any] | None = None, **costs: float
) -> dict[str, Any]:
    """A candidate of ``search.json``; ``latency`` is what is known of it on ONNX Runtime."""
    known: dict[str, Any] = {"flops": 30_000_000, "params": 800_000, **costs}
    if latency is not None:
        known["latency_ms"] = latency
        known["latency_ms_by_target"] = {"onnxruntime-cpu": latency}
    return {
        "architecture": choices,
        "indicators": {"expressivity-regions": 100.0 - rank, "uncertainty": -rank},
        "rank": rank,
        "costs": known,
    }


def at(precision: str) -> Conditions:
    """The conditions of a latency in ``precision``."""
    return dataclasses.replace(CONDITIONS, precision=precision)


def measured(value: float | None, predicted: float | None = None) -> dict[str, Any]:
    """What ``search.json`` says of a latency."""
    interval = None if predicted is None else [0.9 * predicted, 1.1 * predicted]
    return {"predicted": predicted, "interval": interval, "measured": value}


def searched(
    run: Path,
    choices: dict[str, str] = CHAIN,
    budgets: tuple[dict[str, Any], ...] = (LATENCY,),
    *,
    confirmed: bool = True,
    upper_ms: float = 1.6,
    disturbed: tuple[str, ...] = (),
    precision: str = "fp32",
    **changes: Any,
) -> Path:
    """A run whose search is done, ``confirmed`` or by a table from elsewhere, in ``precision``, of
    which an older file says nothing; keys of ``changes`` replace those of ``search.json``."""
    others = [{**choices, name: "other"} for name in list(choices)[:3]]
    candidates = [
        candidate(
            each,
            rank,
            measured(1.0 + rank / 10 if confirmed else None, 1.05 + rank / 10),
            flops=4e7 - 1e6 * rank,
        )
        for rank, each in enumerate([choices, *others], 1)
    ]
    confirmations = {
        "value_ms": 1.5,
        "upper_ms": upper_ms,
        "slowdown": 1.0,
        "disturbed": bool(disturbed),
        "records": [
            record(at(precision), value, disturbed=disturbed).as_json()
            for value in (1.4, 1.45, 1.5)
        ],
    }
    has_latency = any(budget["kind"] == "latency" for budget in budgets)
    content: dict[str, Any] = {
        "space": {"name": "mobilenet", "resolution": 32, "options": {"width": 0.5}},
        "data": {"name": "digits", "fingerprint": "ab12"},
        "seed": 3,
        "budgets": list(budgets),
        "settings": {
            "budgets": list(budgets), "target": "onnxruntime-cpu", "threads": 1, "batch": 1,
            "algorithm": "evolution", "candidates": 4, "indicator": "cpi", "latency_tables": [],
            **({} if precision == "fp32" else {"precision": precision}),
        },
        "survey": {
            "count": 24,
            "fitting": 12,
            "ranges": [
                {"budget": each, "least": each["limit"] / 2, "median": each["limit"],
                 "most": each["limit"] * 1.5, "meeting": 12}
                for each in budgets
            ],
            "stretch": {"latency_ms:onnxruntime-cpu": 1.04} if has_latency else {},
        },
        "tally": {"drawn": 9, "duplicates": 3, "over_budget": {"flops": 2}, "fitting": 4,
                  "ending": "All 4 candidates were scored."},
        "candidates": candidates,
        "pareto": {"latency_ms:onnxruntime-cpu": [0], "flops": [0, 1, 2, 3]},
        "best": {
            **candidates[0],
            "text": ",".join(f"{name}={option}" for name, option in choices.items()),
            "meets_budget": True if confirmed else None,
            "confirmed": {"onnxruntime-cpu": confirmations} if confirmed and has_latency else {},
        },
        "latency": {"onnxruntime-cpu": {"predictor": "whole"}} if has_latency else {},
        "timing": {"train": 0.0, "table": 2.0, "survey": 10.0, "search": 30.0, "confirm": 20.0,
                   "latency": 25.0},
    }  # fmt: skip
    write(run / "search.json", **content | changes)
    return run


def trained(
    run: Path,
    choices: dict[str, str] = CHAIN,
    accuracy: float = 0.9,
    validation: tuple[tuple[int, float], ...] = (),
    losses: tuple[tuple[int, float], ...] = (),
    settings: dict[str, Any] | None = None,
) -> Path:
    """A run whose network is trained: a safetensors file without tensors."""
    about = {
        "architecture": choices,
        "retrain": settings or {"epochs": 5, "optimizer": "sgd", "seed": 3, "teacher": None},
        "results": {"accuracy": accuracy, "trivial": 0.1, "images": 200, "seconds": 60.0,
                    "losses": [list(each) for each in losses],
                    "validation": [list(each) for each in validation],
                    "best_epoch": max(validation, key=lambda each: each[1])[0] if validation
                    else None},
    }  # fmt: skip
    header = json.dumps({"__metadata__": {"about": json.dumps(about)}}).encode()
    (run / "subnet.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return run


def check(
    accuracy: float = 0.9, trained_accuracy: float = 0.9, *, passed: bool = True
) -> dict[str, Any]:
    """One comparison with the trained network."""
    return {
        "target": "onnxruntime-cpu",
        "images": 200,
        "max_relative_error": 5e-7,
        "top1_agreement": 1.0,
        "accuracy_trained": trained_accuracy,
        "accuracy_exported": accuracy,
        "passed": passed,
    }


def exported(run: Path, **changes: Any) -> Path:
    """A run with a verified model."""
    (run / "model.onnx").write_bytes(b"model")
    batchnorms = {"before": 12, "after": 0}
    results = [check(**changes)]
    write(run / "verify.json", model="model.onnx", batchnorms=batchnorms, results=results)
    return run


def profiled(
    run: Path, value_ms: float = 1.5, precision: str = "", disturbed: tuple[str, ...] = ()
) -> Path:
    """A run whose model was timed."""
    layers = [
        ("stem.conv/Conv", "Conv", 0.1),
        ("stage1_0.mb3_k3.depthwise.conv/Conv", "Conv", 0.5),
        ("stage2_0.mb6_k5.project.conv/Conv", "Conv", 0.3),
        ("ReorderOutput", "ReorderOutput", 0.1),
    ]
    write(
        run / f"profile{precision and f'.{precision}'}.json",
        latency=record(at(precision or "fp32"), value_ms, disturbed=disturbed).as_json(),
        layers=[
            {"name": name, "op": op, "added": op == "ReorderOutput", "latency_ms": share * value_ms,
             "share": share, "nodes": []}
            for name, op, share in layers
        ],
        layers_sum_ms=value_ms,
        layers_runs=20,
    )  # fmt: skip
    return run


def quantized(
    run: Path,
    drop: float = 0.01,
    latency_ms: float = 0.8,
    precision: str = "int8",
    **changes: Any,
) -> Path:
    """A run with a model in int8 or another precision, as an older version wrote it, but for
    ``changes``."""
    (run / f"model.{precision}.onnx").write_bytes(precision.encode())
    write(
        run / f"verify.{precision}.json",
        **{
            "model": f"model.{precision}.onnx",
            "precision": precision,
            "max_drop": 2.0,
            "calibration": {"method": "mse", "images": 500, "model_hash": "a", "data_hash": "b"},
            "activations": "uint8",
            "kept_fp32": ["stem.conv/Conv"],
            "sensitivity": {"stem.conv/Conv": 1e-2, "head.conv/Conv": 1e-4},
            "results": [check(0.9 - drop)],
            "speed": [{"target": "onnxruntime-cpu", "latency_ms": latency_ms,
                       "fp32_latency_ms": 1.5, "disturbed": ["rounds varied by 8%"]}],
        }
        | changes,
    )  # fmt: skip
    return run


def built(run: Path, *, verified: bool = False, **changes: Any) -> Path:
    """A run with an engine."""
    (run / "model.tensorrt.engine").write_bytes(b"engine")
    write(
        run / "model.tensorrt.engine.json",
        **{
            "target": "tensorrt",
            "version": "10.7.0",
            "device": {"gpu": "A GPU", "compute_capability": [8, 6]},
            "model": "model.onnx",
            "onnx_sha256": hashlib.sha256(b"model").hexdigest(),
            "precision": "fp32",
            "options": {"batch": 1, "max_batch": None},
            "build": {"seconds": 12.0, "warnings": ["a warning"], "layers": []},
            "verification": {**check(), "target": "tensorrt"} if verified else None,
        }
        | changes,
    )
    return run


def hashed(run: Path) -> Path:
    """The run with the hash of every file that a JSON file in it speaks of; ``exported`` and the
    others write as older versions did, which knew none."""
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.iterdir()
        if path.suffix != ".json"
    }
    for path in run.glob("*.json"):
        content = json.loads(path.read_text())
        name = path.name.removesuffix(".json")
        if name.startswith(("verify", "profile")):
            model = name.replace("verify", "model").replace("profile", "model") + ".onnx"
            content["onnx_sha256"] = digests[model]
        if name.startswith("verify"):
            content["subnet_sha256"] = digests["subnet.safetensors"]
        if name.endswith(".engine"):
            content |= {"bytes": (run / name).stat().st_size, "sha256": digests[name]}
        path.write_text(json.dumps(content))
    return run


def whole(run: Path) -> Path:
    """A run with everything that is wanted, and nothing against it."""
    return profiled(exported(trained(searched(started(run)))))


def whole_in(run: Path, precision: str = "int8") -> Path:
    """A run that was searched in ``precision`` and has all that ships, but no fp32 file."""
    made = quantized(trained(searched(started(run), precision=precision)), precision=precision)
    return profiled(made, 0.8, precision)
