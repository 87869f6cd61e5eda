"""What a supernet's indicators cost, against plain passes over the same images.

    python benchmarks/scoring.py [--candidates 12] [--threads 1] [--out FILE]

In turns, for each sampled candidate: cpi-paper and gamma, which read four batches, against the
same batches through the same path with batch statistics, as the candidate must be run (BatchNorms
in training mode, no gradients), and in evaluation mode; the first look of cpi, which reads the
gradients of one batch, against a forward pass of that batch and the backward pass to its images.
Ratios are medians over candidates.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fbn_deploy.data import load_data
from fbn_deploy.indicators import Scoring, composite, indicators_of, probe_batches
from fbn_deploy.supernet.choice import select_path
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet
from fbn_deploy.targets import ready_target

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "nasbench201@32": ("nasbench201", 32, {}),
    "mobilenet@32": ("mobilenet", 32, {"width": 0.5, "depth": 2}),
}
ROUNDS = 3  # the fastest of them counts for each candidate and way


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(case: str, candidates: int) -> dict[str, Any]:
    """Ratios for one space."""
    space, resolution, options = CASES[case]
    data = load_data(None, resolution=resolution, seed=0)
    supernet = build_supernet(definition(space, resolution, options), len(data.classes))
    probe = probe_batches(data, batches=4, batch_size=64, seed=0)
    scoring = Scoring(supernet, probe, [*indicators_of("cpi-paper"), "gamma"])
    first_look = Scoring(supernet, probe, composite("cpi").of_all)
    rng = random.Random(0)

    @torch.inference_mode()
    def forward(training: bool) -> None:
        supernet.network.train(training)
        for images in probe.images:
            supernet.network(images)

    def there_and_back() -> None:
        supernet.network.train().requires_grad_(False)
        images = probe.images[0].clone().requires_grad_(True)
        logits = supernet.network(images)
        loss = torch.nn.functional.cross_entropy(logits, probe.labels[0], reduction="sum")
        torch.autograd.grad(loss, images)

    against_train, against_eval, against_backward = [], [], []
    for _ in range(candidates):
        architecture = supernet.space.sample(rng)
        select_path(supernet.network, architecture)
        ways: dict[str, Callable[[], object]] = {
            "score": lambda a=architecture: scoring(a),
            "train": lambda: forward(True),
            "eval": lambda: forward(False),
            "first look": lambda a=architecture: first_look(a),
            "there and back": there_and_back,
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(ROUNDS):
            for way, run in ways.items():
                best[way] = min(best[way], seconds(run))
        against_train.append(best["score"] / best["train"])
        against_eval.append(best["score"] / best["eval"])
        against_backward.append(best["first look"] / best["there and back"])
    return {
        "candidates": candidates,
        "images": sum(len(images) for images in probe.images),
        "against_batch_statistics": statistics.median(against_train),
        "against_batch_statistics_max": max(against_train),
        "against_eval_mode": statistics.median(against_eval),
        "cpi_against_forward_and_backward": statistics.median(against_backward),
        "cpi_against_forward_and_backward_max": max(against_backward),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scoring.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    cases = {}
    print(f"{'case':16} {'batch statistics':>17} {'(max)':>6} {'eval mode':>10} {'cpi':>7}")
    for case in CASES:
        cases[case] = found = compare(case, arguments.candidates)
        print(
            f"{case:16} {found['against_batch_statistics']:16.3f}x "
            f"{found['against_batch_statistics_max']:5.2f}x {found['against_eval_mode']:9.3f}x "
            f"{found['cpi_against_forward_and_backward']:6.3f}x",
            flush=True,
        )
    result = {
        "device": ready_target("onnxruntime-cpu").device(),
        "torch": importlib.metadata.version("torch"),
        "threads": arguments.threads,
        "load": [load, os.getloadavg()[0]],
        "cases": cases,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
