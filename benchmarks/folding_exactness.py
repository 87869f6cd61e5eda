"""Is folding exact and minimal? Every claim, run in full: one table and one JSON file.

    python benchmarks/folding_exactness.py [--architectures 200] [--out FILE]

* 200 random architectures of each space and the torchvision zoo (timm where it is installed),
  random BatchNorm parameters: γ of both signs and zero, σ from 1e-2 to 1e2. Errors are maximum
  norms relative to a double-precision run in PyTorch; ``own`` is the unfolded float32 graph's.
* All 15,625 NAS-Bench-201 cells, and random DARTS cells, against the number of independent cycles,
  counted separately.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import onnx
import onnxruntime
import test_folding_darts as darts
import test_folding_minimal as minimal
import test_folding_networks as networks
import torch
import torchvision

from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module

ZOO = (
    "resnet18", "resnet50", "densenet121", "mobilenet_v2", "mobilenet_v3_small",
    "mobilenet_v3_large", "shufflenet_v2_x1_0", "regnet_y_400mf", "regnet_x_400mf", "googlenet",
    "efficientnet_b0",
)  # fmt: skip
TIMM = {
    "resnetv2_50": True,
    "repvgg_a0": False,
    "densenet121": False,
    "mobilenetv3_small_100": False,
}


def row(name: str, errors: list[tuple[float, float, object]]) -> dict[str, object]:
    folded, own = [e[0] for e in errors], [e[1] for e in errors]
    tight = [f for f, o in zip(folded, own, strict=True) if o <= networks.TOLERANCE / 4]
    found = {
        "name": name,
        "n": len(errors),
        "max_error": max(folded),
        "max_own_rounding": max(own),
        "n_own_rounding_small": len(tight),
        "max_error_where_own_rounding_is_small": max(tight, default=None),
        "median_error_over_own_rounding": statistics.median(
            f / o for f, o in zip(folded, own, strict=True) if o
        ),
        "failed": sum(not networks.is_exact(f, o) for f, o in zip(folded, own, strict=True)),
        "batchnorm_after": max(e[2].batchnorm_after for e in errors),
        "mean_scales_stayed": statistics.mean(e[2].scales_stayed for e in errors),
        "mean_shifts_stayed": statistics.mean(e[2].shifts_stayed for e in errors),
        "max_fold_seconds": max(e[2].seconds for e in errors),
        "median_fold_seconds": statistics.median(e[2].seconds for e in errors),
    }
    print(
        f"{name:34} n {found['n']:4} error {found['max_error']:.1e}"
        f" own {found['max_own_rounding']:.1e}"
        f" ratio {found['median_error_over_own_rounding']:.2f} failed {found['failed']}"
        f" BN {found['batchnorm_after']} stayed {found['mean_scales_stayed']:.2f}"
        f"/{found['mean_shifts_stayed']:.2f} fold {found['median_fold_seconds']:.3f} s",
        flush=True,
    )
    return found


def spaces(count: int) -> list[dict[str, object]]:
    rows = []
    for kind in ("wild", "trained"):
        for space, resolution, options in (
            ("nasbench201", 16, {"channels": 8, "cells": 2}),
            ("mobilenet", 32, {"width": 0.25, "depth": 3, "squeeze_excite": True}),
            ("darts", 16, {"channels": 4, "cells": 3}),
        ):
            candidates = networks.Candidates(space, resolution, kind, **options)
            found = [candidates.errors(seed) for seed in range(count)]
            rows.append(row(f"{space}, {kind} BatchNorms", found))
            if kind == "trained":
                found = [candidates.errors(seed, equalize=True) for seed in range(count // 4)]
                rows.append(row(f"{space}, {kind}, equalised", found))
    return rows


def zoo() -> list[dict[str, object]]:
    rows = []
    for name in ZOO:
        options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        for kind in ("wild", "trained"):
            torch.manual_seed(0)
            made = getattr(torchvision.models, name)(weights=None, **options)
            module = networks.randomize_batchnorms(made, 0, kind)
            graph = onnx_from_module(module, 64)
            rows.append(row(f"{name}, {kind}", [networks.errors(module, graph, 64)]))
    return rows


def timm_models() -> list[dict[str, object]]:
    try:
        import timm
    except ImportError:
        print("timm is not installed; its models were not run")
        return []
    rows = []
    for name, swap in TIMM.items():
        options = {"norm_layer": torch.nn.BatchNorm2d} if swap else {}
        for kind in ("wild", "trained"):
            torch.manual_seed(0)
            module = networks.randomize_batchnorms(timm.create_model(name, **options), 0, kind)
            graph = onnx_from_module(module, 64)
            rows.append(row(f"timm {name}, {kind}", [networks.errors(module, graph, 64)]))
    return rows


def all_cells() -> dict[str, object]:
    """Every cell: scales that stay against the independent count."""
    wrong, scales, shifts, before, excess = 0, 0, 0, 0, 0
    start = time.perf_counter()
    for ops in itertools.product(minimal.OPS, repeat=len(minimal.EDGES)):
        cell = dict(zip(minimal.EDGES, ops, strict=True))
        _, report = fold_affine(minimal.cell(cell))
        wrong += report.scales_stayed != minimal.least_scales(cell)
        excess += report.shifts_stayed > minimal.sums_without_convolution(cell)
        scales += report.scales_stayed
        shifts += report.shifts_stayed
        before += sum(op in minimal.LINEAR for op in ops)
    count = len(minimal.OPS) ** len(minimal.EDGES)
    found = {
        "cells": count,
        "cells_not_at_the_minimum": wrong,
        "cells_with_a_shift_beside_a_convolution": excess,
        "mean_scales_stayed": scales / count,
        "mean_shifts_stayed": shifts / count,
        "mean_identity_and_pooling_edges": before / count,
        "seconds_a_cell": (time.perf_counter() - start) / count,
    }
    print(found)
    return found


def darts_cells(count: int) -> dict[str, object]:
    """Random normal and reduction cells: scales that stay against the independent count."""
    wrong, scales = 0, 0
    for seed in range(count):
        for reduces in (False, True):
            cell = darts.random_cell(seed)
            _, report = fold_affine(darts.graph_of(cell, reduces))
            wrong += report.scales_stayed != darts.least_scales(cell, reduces)
            scales += report.scales_stayed
    found = {
        "cells": 2 * count,
        "cells_not_at_the_minimum": wrong,
        "mean_scales_stayed": scales / (2 * count),
    }
    print("DARTS", found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", type=int, default=200)
    default = Path(__file__).parent / "results" / "folding_exactness.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    result = {
        "schema": 1,
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "machine": {"cpu": platform.processor() or platform.machine(), "cpus": os.cpu_count()},
        "cells": all_cells(),
        "darts_cells": darts_cells(10 * arguments.architectures),
        "spaces": spaces(arguments.architectures),
        "zoo": zoo(),
        "timm": timm_models(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
