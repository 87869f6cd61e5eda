"""What the ranking by ``cpi`` depends on: one factor at a time, three seeds.

    python benchmarks/ablation.py --images CIFAR10 --tables DIR [--only FACTOR] [--seeds 0,1,2]

Base: NAS-Bench-201 with one cell a stage, 32 channels, 16 pixels, fair BatchNorm, at its random
initialisation, 4 batches of 64 images. A seed draws weights, images and 300 connected cells; all
factors of a seed rank the same cells. Prints a table and writes ``results/ablation.json``; factors
that are not run keep what stands there.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ranking import arguments_parser
from rich.console import Console
from rich.table import Table
from trained_tables import CELLS, SMALL, TRAINED_ON, Places, Setup, machine, one_thread

from fbn_deploy.files import read_json, write_json
from fbn_deploy.indicators import composite_rank, indicators_of
from fbn_deploy.ranking import kendall, kendall_among_best

SAMPLES = 300
COMPOSITES = ("cpi", "cpi-gradients", "cpi-spectra", "cpi-paper")
NAMES = tuple(dict.fromkeys(part for name in COMPOSITES for part in indicators_of(name)))
BASE = Setup(CELLS, SMALL["nasbench201"])


def small(**options: Any) -> Setup:
    return replace(BASE, options={**BASE.options, **options})


def trained(steps: int, **settings: Any) -> Setup:
    return replace(BASE, training={"epochs": steps * 64 / TRAINED_ON, **settings})


FACTORS: dict[str, Setup] = {
    "base": BASE,
    "conv-only BatchNorm": replace(BASE, bn="conv-only"),
    "16 channels": small(channels=16),
    "64 channels": small(channels=64),
    "3 cells": small(cells=3),
    "32 pixels": replace(BASE, resolution=32),
    "batches of 32": replace(BASE, batch_size=32),
    "batches of 128": replace(BASE, batch_size=128),
    "300 steps": trained(300),
    "1,500 steps": trained(1500),
    "1,500 steps, strict-fair": trained(300, sampler="fair"),  # 5 paths a step
    "1,500 steps, SGD 0.1": trained(1500, optimizer="sgd"),
    "1,500 steps, Adam 0.002": trained(1500, learning_rate=0.002),
    "1,500 steps, batches of 256": trained(6000, batch_size=256),  # steps of 64 images: 4 each
    "1,500 steps, with the classifier": trained(1500, train="bn+classifier"),
    "1,500 steps, all weights": trained(1500, train="all", learning_rate=0.002),
}


def ranked(scores: Sequence[Mapping[str, float]], accuracies: Sequence[float]) -> dict[str, float]:
    """τ of the composites, of their parts, and of ``cpi`` among the best tenth."""
    quality = {name: -np.array(composite_rank(name, scores)) for name in (*COMPOSITES, *NAMES)}
    found = {name: kendall(of, accuracies) for name, of in quality.items()}
    found["cpi among the best 10 %"] = kendall_among_best(quality["cpi"], accuracies)
    return {name: float("nan") if tau is None else float(tau) for name, tau in found.items()}


def printed(factors: Mapping[str, Any]) -> Table:
    """Means over the seeds; a dash where a factor was run before an indicator was there."""
    columns = list(dict.fromkeys(key for f in factors.values() for s in f.values() for key in s))
    table = Table("factor", *columns, title="Kendall τ, mean over seeds")
    for name, by_seed in factors.items():
        values = [[each[key] for each in by_seed.values() if key in each] for key in columns]
        table.add_row(name, *(f"{statistics.mean(v):.3f}" if v else "–" for v in values))
    return table


def main() -> None:
    """Runs the factors in turn, all seeds of one before the next."""
    parser = arguments_parser(__doc__, "ablation.json")
    parser.set_defaults(runs=Path("runs/ablation"))
    parser.add_argument("--only", action="append", choices=list(FACTORS))
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    one_thread()
    places = Places(given.images, given.tables, given.runs)
    content = read_json(given.out) if given.out.exists() else {"schema": 1, "factors": {}}
    for name in given.only or FACTORS:
        for seed in given.seeds.split(","):
            setup = replace(FACTORS[name], seed=int(seed))
            _, rows, scores = places.scores(setup, NAMES, SAMPLES)
            found = ranked(scores, [row.accuracy for row in rows])
            content["factors"].setdefault(name, {})[seed] = found
            content |= {"machine": machine(), "samples": SAMPLES}
            write_json(given.out, content)
    Console(width=160).print(printed(content["factors"]))


if __name__ == "__main__":
    main()
