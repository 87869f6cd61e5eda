"""NAS-Bench-201 cells retrained by their own 12-epoch schedule, beside the table's accuracy.

    python benchmarks/retrain_known.py --data DIR --table nasbench201.csv.gz [--cells 4]
        [--architecture-column arch_str] [--accuracy-column c10_test_e12] [--work DIR] [--quick]

The table's rows are divided by accuracy into as many groups of equal size as cells are wanted; of
each group the row with the fewest ``flops_M`` is trained, so that a CPU can do it (about an hour
a cell on one core). A run that was killed goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from ranking import machine

from fbn_deploy.bench.csvfile import read_csv
from fbn_deploy.data import load_data
from fbn_deploy.files import read_json, write_json
from fbn_deploy.progress import reporter
from fbn_deploy.retrain.evaluation import accuracy
from fbn_deploy.retrain.network import subnet
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.training import RetrainSettings, retrain
from fbn_deploy.supernet.definition import definition


def chosen_rows(
    table: Path, architecture: str, accuracy_column: str, cells: int
) -> list[tuple[str, float]]:
    """(cell, accuracy in %), from the least accurate group to the most."""
    rows = [
        (float(row[accuracy_column] or 0), float(row["flops_M"] or 0), row[architecture] or "")
        for row in read_csv(table).rows
    ]
    rows = sorted(row for row in rows if row[0] > 11)  # below: the output is cut off
    found = []
    for group in range(cells):
        own = rows[group * len(rows) // cells : (group + 1) * len(rows) // cells]
        value, _, text = min(own, key=lambda row: row[1])
        found.append((text, value))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, as --data of fbn.")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--architecture-column", default="arch_str")
    parser.add_argument("--accuracy-column", default="c10_test_e12")
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--work", type=Path, default=Path("runs/retrain_known"))
    parser.add_argument("--quick", action="store_true", help="A fraction of an epoch: does it run?")
    said = parser.parse_args()
    rows = chosen_rows(said.table, said.architecture_column, said.accuracy_column, said.cells)
    space = definition("nasbench201", 32)
    data = load_data(said.data, resolution=32, seed=0)
    chosen = recipe("nasbench201-12", {"epochs": 0.05} if said.quick else {})
    search_space = space.search_space(space.network(10, 0))
    results = []
    for number, (text, known) in enumerate(rows):
        done = said.work / f"{number}.json"
        about = {"cell": text, "epochs": chosen.epochs}
        if not done.exists() or (result := read_json(done))["about"] != about:
            network = subnet(space, search_space.parse(text), 10, fair_bn=False, seed=0)
            trained = retrain(
                network, data, RetrainSettings(chosen), about=about, reporter=reporter(),
                checkpoint=said.work / f"{number}.partial", best=said.work / f"{number}.best",
            )  # fmt: skip
            reached = 100 * accuracy(network, data, data.test)
            result = {"about": about, "reached": reached, "seconds": trained.seconds}
            write_json(done, result)
        results.append({**result, "table": known})
        print(
            f"{text}\n  {result['reached']:.2f} %, table {known:.2f} %, "
            f"{result['reached'] - known:+.2f} points, {result['seconds']:.0f} s",
            flush=True,
        )
    mean = statistics.mean(each["reached"] - each["table"] for each in results)
    print(f"Mean difference over {len(results)} cells: {mean:+.2f} points")
    content = {"machine": machine(torch.get_num_threads()), "mean": mean, "cells": results}
    write_json(said.work / "results.json", content)


if __name__ == "__main__":
    main()
