"""Where the time of a whole NAS-Bench-201 search goes, on this machine.

    python benchmarks/search_cost.py --images cifar10:DIR [--candidates 1000] [--rounds 3]
                                     [--out FILE]

Each round is one ``fbn search`` with the defaults, in a fresh process and run directory: so many
candidates scored by ``cpi`` in the space's proxy, one picked, under 300M multiply-adds, which
excludes none. Stated: seconds of the whole command, of its parts, and of what
is none of them (imports, reading the images). Runs on a GPU where PyTorch sees one, else on
``OMP_NUM_THREADS`` threads. Writes ``results/search_cost.json``: an entry for each device.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fbn_deploy.files import read_json, write_json
from fbn_deploy.targets._cpu import device_name

OUT = Path(__file__).parent / "results" / "search_cost.json"
PARTS = ("train", "table", "survey", "search", "trial", "confirm")


def searched(images: str, candidates: int, seed: int) -> dict[str, Any]:
    """Seconds of one search, and what it picked."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fbn_deploy", "search", "--space", "nasbench201"]
        command += ["--candidates", str(candidates), "--flops-budget", "300M"]
        command += ["--data", images, "--seed", str(seed), "--run", folder]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - started
        found = read_json(Path(folder) / "search.json")
    seconds = {part: found["timing"][part] for part in PARTS}
    rest = wall - sum(seconds.values())
    return {"seed": seed, "wall": wall, **seconds, "rest": rest, "pick": found["best"]["text"]}


def main() -> None:
    """Runs the rounds in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rounds = [searched(given.images, given.candidates, seed) for seed in range(given.rounds)]
    gpu = torch.cuda.is_available()
    columns = ("wall", *PARTS, "rest")
    shown = Table("seed", *columns, title="seconds")
    for each in rounds:
        shown.add_row(str(each["seed"]), *(f"{each[name]:.1f}" for name in columns))
    Console().print(shown)
    entry = {
        "candidates": given.candidates,
        "threads": torch.get_num_threads(),
        "processor": device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "median_s": statistics.median(each["wall"] for each in rounds),
        "rounds": rounds,
    }
    before = read_json(given.out)["devices"] if given.out.exists() else {}
    name = torch.cuda.get_device_name() if gpu else f"{device_name()}, {entry['threads']} threads"
    write_json(given.out, {"schema": 1, "devices": {**before, name: entry}})


if __name__ == "__main__":
    main()
