"""How ``cpi`` ranks the cells of NAS-Bench-201 that had no part in choosing it.

    python benchmarks/held_out.py --images CIFAR10 --tables DIR [--runs DIR] [--seeds 3]

The definitions were compared on samples of the table: 300 cells of seeds 0, 1 and 2, and 1,000 of
seeds 0, 6, 7 and 8 (``ablation.md``). The cells that are in none of them are listed and judged by
``fbn bench``, every indicator in the network where it is read by default, with other weights and
images for each seed. Writes ``results/held_out.json``: as ``ranking.json``, with the number of
cells.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from ranking import KEPT, NB201, arguments_parser, bench, machine
from rich.console import Console
from rich.table import Table

from fbn_deploy.bench.choose import chosen
from fbn_deploy.bench.csvfile import read_csv
from fbn_deploy.bench.trained import trained_table
from fbn_deploy.files import write_json
from fbn_deploy.supernet.definition import definition

CHOSE = {300: (0, 1, 2), 1000: (0, 6, 7, 8)}  # samples: seeds
LEAST_ACCURACY = 10.5
INDICATORS = "cpi,cpi-gradients,three-proxy,naswot,synflow,az-nas,zico,params,flops"


def held_out(tables: Path) -> list[str]:
    """The cells that no sample of ``CHOSE`` has, as texts."""
    made = definition("nasbench201", 32, {})
    space = made.search_space(made.network(10, 0))
    table = trained_table(
        read_csv(tables / "nasbench201_cifar10.csv.gz"), space, ["arch_str"], "c10_test"
    )

    def drawn(samples: int, seed: int) -> set[str]:
        rows, _ = chosen(table, space, samples=samples, seed=seed, min_accuracy=LEAST_ACCURACY)
        return {space.text(row.architecture) for row in rows}

    left = drawn(len(table.rows), 0)
    for samples, seeds in CHOSE.items():
        for seed in seeds:
            left -= drawn(samples, seed)
    return sorted(left)


def main() -> None:
    parser = arguments_parser(__doc__, "held_out.json")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    cells = held_out(given.tables)
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "cells.txt"
        listed.write_text("\n".join(cells) + "\n")
        for seed in range(given.seeds):
            arguments = f"{NB201} --architectures {listed} --indicators {INDICATORS} --seed {seed}"
            found = bench(arguments, given, f"held_out_s{seed}")
            cases[f"s{seed}"] = {key: found[key] for key in KEPT}
            content = {"schema": 1, "cells": len(cells), "machine": machine(1), "cases": cases}
            write_json(given.out, content)
    shown = Table("indicator", *cases, "mean", title=f"Kendall τ, {len(cells)} cells held out")
    for indicator in INDICATORS.split(","):
        taus = [
            next(each["kendall"] for each in case["results"] if each["indicator"] == indicator)
            for case in cases.values()
        ]
        shown.add_row(indicator, *(f"{tau:.3f}" for tau in (*taus, statistics.mean(taus))))
    Console().print(shown)


if __name__ == "__main__":
    main()
