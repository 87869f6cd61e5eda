"""A BN-only training step against a step that trains everything: images a second, peak memory.

    python benchmarks/training.py [--steps 30] [--threads 1] [--device cpu] [--out FILE]

Both supernets run the same paths on the same batch in turns, forward, backward and optimizer step;
``all`` uses PyTorch's own ops. Speed is the median over steps of the ratio within a step. Memory
is the peak of what the allocator holds beyond the start of a step: activations, gradients and
temporaries; on the CPU from PyTorch's profiler, with ``--device cuda`` from its own record there.

What limits it: BN-only training saves the gradients of the convolutions' weights. Of a step that
trains all of ``nasbench201`` (16 channels; profile of 12 steps, one thread of an AMD EPYC, PyTorch
2.14) they are 17 %, so that 1.2 times the speed is the most there; the rest is BatchNorms (24 %),
the convolutions' outputs and input gradients (28 %), pooling (11 %), additions and ReLUs (14 %),
which both have.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fbn_deploy.supernet.choice import select_path
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.frozen import train_only_batchnorm
from fbn_deploy.supernet.paths import uniform
from fbn_deploy.supernet.supernet import Supernet, build_supernet
from fbn_deploy.targets import ready_target

CASES: dict[str, tuple[str, int, dict[str, Any], int]] = {
    "nasbench201@32": ("nasbench201", 32, {}, 64),
    "mobilenet@32": ("mobilenet", 32, {"width": 0.5, "depth": 2}, 64),
    "mobilenet@160": ("mobilenet", 160, {}, 16),
}
WARMUP = 3  # steps that are not counted
PROFILED = 6  # steps whose memory is watched


def step(
    supernet: Supernet, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> None:
    """One training step of the selected path, to its end."""
    nn.functional.cross_entropy(supernet.network(x), y).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if x.is_cuda:
        torch.cuda.synchronize()


def peak_bytes(run: Any, device: str) -> int:
    """The most that the allocator held beyond the start of ``run``."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def compare(case: str, steps: int, device: str) -> dict[str, Any]:
    """Speed and memory of both ways for one space."""
    space, resolution, options, batch = CASES[case]
    chosen = definition(space, resolution, options)
    supernets = {mode: build_supernet(chosen, 10, seed=0) for mode in ("bn", "all")}
    for each in supernets.values():
        each.network.to(device)
    train_only_batchnorm(supernets["bn"].network)
    optimizers = {
        mode: torch.optim.Adam([p for p in s.network.parameters() if p.requires_grad], 1e-3)
        for mode, s in supernets.items()
    }
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, resolution, resolution, generator=generator)
    x = x.to(device, memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,), generator=generator).to(device)
    seconds: dict[str, list[float]] = {"bn": [], "all": []}
    peaks: dict[str, list[int]] = {"bn": [], "all": []}
    for number in range(WARMUP + steps):
        (path,) = uniform(supernets["bn"].space.decisions, 0, number)
        for mode in ("bn", "all") if number % 2 else ("all", "bn"):
            select_path(supernets[mode].network.train(), path)
            started = time.perf_counter()
            step(supernets[mode], optimizers[mode], x, y)
            seconds[mode].append(time.perf_counter() - started)
            if WARMUP <= number < WARMUP + PROFILED:
                peaks[mode].append(
                    peak_bytes(lambda m=mode: step(supernets[m], optimizers[m], x, y), device)
                )
    pairs = list(zip(seconds["all"][WARMUP:], seconds["bn"][WARMUP:], strict=True))
    memory = [b / a for a, b in zip(peaks["all"], peaks["bn"], strict=True)]
    return {
        "batch": batch,
        "steps": steps,
        "images_per_s": {m: batch / statistics.median(s[WARMUP:]) for m, s in seconds.items()},
        "speedup_median": statistics.median(a / b for a, b in pairs),
        "speedup_of_sums": sum(a for a, _ in pairs) / sum(b for _, b in pairs),
        "peak_mb": {m: statistics.mean(p) / 2**20 for m, p in peaks.items()},
        "memory_ratio": statistics.mean(memory),
        "memory_ratio_range": [min(memory), max(memory)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    cases = {}
    print(f"{'case':16} {'all':>8} {'bn':>8} {'speed':>7} {'memory':>7}   images/s, ratios bn/all")
    for case in CASES:
        cases[case] = found = compare(case, arguments.steps, arguments.device)
        rate = found["images_per_s"]
        print(
            f"{case:16} {rate['all']:8.1f} {rate['bn']:8.1f} {found['speedup_median']:6.2f}x "
            f"{found['memory_ratio']:6.2f}x",
            flush=True,
        )
    result = {
        "device": (
            torch.cuda.get_device_name()
            if arguments.device == "cuda"
            else ready_target("onnxruntime-cpu").device()
        ),
        "torch": importlib.metadata.version("torch"),
        "threads": arguments.threads,
        "load": [load, os.getloadavg()[0]],
        "cases": cases,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
