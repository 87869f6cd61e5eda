"""Retraining against a plain loop, the loader alone, and scoring by two processes against one.

    python benchmarks/retrain.py [--quick] [--json FILE]

Three measurements, each repeated by turns and given as the median of its rounds:

- *training*: images a second of ``fbn_deploy.retrain`` and of a plain loop of torch and torchvision
  (``ImageFolder``, ``DataLoader``, crop, flip, SGD), with the same network, batch and images;
- *loader*: images a second of the batches alone, beside what training takes;
- *scoring*: candidates a second of two processes on two cores against one on one, both started
  by torchrun, without starting and reading.

The images are PNG files of random pixels, made on the spot: contents do not change the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fbn_deploy.data import ImageData, load_data, train_batches
from fbn_deploy.distributed import join
from fbn_deploy.indicators import Scoring, indicators_of, probe_batches
from fbn_deploy.pipeline.sharing import SharedScoring
from fbn_deploy.progress import Silent
from fbn_deploy.retrain.network import subnet
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.training import RetrainSettings, retrain
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet
from fbn_deploy.targets._cpu import device_name

RESOLUTION, BATCH, CLASSES = 32, 64, 10
SPACES = {"mobilenet": {"width": 0.5, "depth": 2}, "nasbench201": {"cells": 1}}


def images(folder: Path, count: int) -> Path:
    """An ImageFolder tree of random PNGs."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / "train" / str(label)).mkdir(parents=True)
        (folder / "val" / str(label)).mkdir(parents=True)
    for k in range(count + 10 * CLASSES):
        part = "train" if k < count else "val"
        pixels = rng.integers(0, 256, (RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / part / str(k % CLASSES) / f"{k}.png")
    return folder


def network(space: str) -> nn.Module:
    found = definition(space, RESOLUTION, SPACES[space])
    supernet = build_supernet(found, CLASSES)
    return subnet(found, supernet.space.sample(random.Random(3)), CLASSES, fair_bn=True, seed=0)


def ours(space: str, data: ImageData, steps: int) -> float:
    per_epoch = len(data.full_train) // BATCH
    chosen = recipe("quick", {"epochs": steps / per_epoch, "batch_size": BATCH})
    with tempfile.TemporaryDirectory() as folder:
        done = retrain(
            network(space), data, RetrainSettings(chosen), about={}, reporter=Silent(),
            checkpoint=Path(folder) / "partial", best=Path(folder) / "best",
        )  # fmt: skip
    return steps * BATCH / done.seconds


def plain(space: str, folder: Path, steps: int) -> float:
    """As a tutorial would write it; the workers take no core from training that ours has."""
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [transforms.RandomCrop(RESOLUTION, 4), transforms.RandomHorizontalFlip(),
         transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(str(folder / "train"), transform), BATCH, shuffle=True,
        num_workers=2, drop_last=True, persistent_workers=True,
    )  # fmt: skip
    model = network(space).train()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    iterator, done, started = iter(loader), 0, time.perf_counter()
    while done < steps:
        try:
            batch, labels = next(iterator)
        except StopIteration:
            iterator = iter(loader)
            continue
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(model(batch.to(memory_format=torch.channels_last)), labels)
        loss.backward()
        optimizer.step()
        done += 1
    return steps * BATCH / (time.perf_counter() - started)


def loader_alone(data: ImageData, steps: int) -> float:
    batches = train_batches(data, data.full_train, batch_size=BATCH, seed=0)
    started = time.perf_counter()
    for _ in batches.steps(0, steps):
        pass
    return steps * BATCH / (time.perf_counter() - started)


def score_here(count: int) -> None:
    """What every process of the scoring measurement runs; the first one prints seconds."""
    job = join()
    found = definition("nasbench201", RESOLUTION, SPACES["nasbench201"])
    supernet = build_supernet(found, 10)
    data = load_data(resolution=RESOLUTION, seed=0)
    probe = probe_batches(data, batches=4, batch_size=64, seed=0)
    scoring = Scoring(supernet, probe, indicators_of("cpi"))
    shared = SharedScoring([scoring], supernet.space, job)
    rng = random.Random(0)
    candidates = [supernet.space.sample(rng) for _ in range(count)]
    if not job.is_first:
        return shared.serve()
    shared(candidates[: 2 * job.size])
    started = time.perf_counter()
    for start in range(0, count, 16 * job.size):
        shared(candidates[start : start + 16 * job.size])
    seconds = time.perf_counter() - started
    shared.end()
    print(f"seconds {seconds}", flush=True)


def scoring(processes: int, count: int) -> float:
    """Candidates a second."""
    cores = sorted(os.sched_getaffinity(0))[:processes]
    command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m",
               "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port",
               str(29600 + processes), __file__, "--score", str(count)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return count / float(done.stdout.split("seconds ")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Few steps: does it run?")
    parser.add_argument("--json", type=Path, help="Also write the figures there.")
    parser.add_argument("--score", type=int, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.score:
        return score_here(said.score)
    rounds, steps, count = (1, 5, 16) if said.quick else (3, 40, 64)
    results: dict[str, Any] = {
        "torch": torch.__version__, "python": platform.python_version(),
        "device": device_name(), "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
        "batch": BATCH, "resolution": RESOLUTION, "rounds": rounds, "training": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = images(Path(temporary) / "images", 2000)
        data = load_data(str(folder), resolution=RESOLUTION, seed=0)
        for space in SPACES:
            pairs = [(ours(space, data, steps), plain(space, folder, steps)) for _ in range(rounds)]
            results["training"][space] = {
                "ours": statistics.median(pair[0] for pair in pairs),
                "plain": statistics.median(pair[1] for pair in pairs),
                "ratio": statistics.median(a / b for a, b in pairs),
                "ratios": [round(a / b, 3) for a, b in pairs],
            }
        alone = statistics.median(loader_alone(data, 10 * steps) for _ in range(rounds))
    fastest = max(each["ours"] for each in results["training"].values())
    results["loader"] = {"images_per_second": alone, "times_training": alone / fastest}
    pairs = [(scoring(1, count), scoring(2, count)) for _ in range(rounds)]
    results["scoring"] = {
        "one": statistics.median(pair[0] for pair in pairs),
        "two": statistics.median(pair[1] for pair in pairs),
        "speedup": statistics.median(b / a for a, b in pairs),
    }
    for space, each in results["training"].items():
        print(
            f"training {space:<12} {each['ours']:8.0f} images/s, "
            f"plain loop {each['plain']:8.0f}: {each['ratio']:.3f}× {each['ratios']}"
        )
    print(f"loader alone          {alone:8.0f} images/s: {alone / fastest:.1f}× of training")
    print(f"scoring               {results['scoring']['one']:8.2f} candidates/s, two processes "
          f"{results['scoring']['two']:8.2f}: {results['scoring']['speedup']:.2f}×")  # fmt: skip
    if said.json:
        said.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
