"""The analyses of the FBN-NAS paper, on tables of trained accuracies.

    python benchmarks/paper.py {table1,figure3,figure5,figure6,all} --images CIFAR10 --tables DIR

- ``table1``: which operations the ten best cells consist of, by the paper's composite on a fair
  supernet and by γ on a conv-only one.
- ``figure3``: γ (conv-only, as BN-NAS has it) against accuracy, after short and long training.
- ``figure5``: γ/σ (trainability) against γ on the MobileNet-style supernet.
- ``figure6``: linear regions over the training of the supernet.

NAS-Bench-201 with one cell a stage, 32 channels, 16 pixels; NAS-Bench-Macro at half width and 16
pixels. Trained supernets stay in ``--runs`` and are used again. Prints a table an analysis and
writes ``results/paper.json``.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from trained_tables import (
    CELLS,
    MACRO,
    SMALL,
    TRAINED_ON,
    Benchmark,
    Places,
    Setup,
    machine,
    one_thread,
)

from fbn_deploy.bench.trained import Trained
from fbn_deploy.files import read_json, write_json
from fbn_deploy.indicators import composite_rank, indicators_of
from fbn_deploy.ranking import kendall, partial_kendall
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.supernet import Supernet

BATCH, SAMPLES, TOP = 64, 200, 10
SHORT, LONG = 300, 3000  # steps; 625 see every image once


@dataclass(frozen=True)
class Bench:
    """The analyses' supernets: seed 0, small, trained for about so many steps."""

    places: Places

    def scores(
        self, of: Benchmark, bn: str, steps: int, names: Sequence[str]
    ) -> tuple[Supernet, list[Trained], list[dict[str, float]]]:
        """``SAMPLES`` networks scored by the supernet of ``bn`` after ``steps`` steps."""
        training = {"epochs": steps * BATCH / TRAINED_ON, "batch_size": BATCH}
        setup = Setup(of, SMALL[of.space], bn=bn, training=training)
        return self.places.scores(setup, names, SAMPLES)


def column(scores: Sequence[dict[str, float]], name: str) -> np.ndarray[Any, Any]:
    return np.array([each[name] for each in scores])


def table1(bench: Bench) -> dict[str, Any]:
    """Operation counts of the ten best."""
    found: dict[str, Any] = {}
    for name, bn, by in (
        ("fair, paper's composite", "fair", "cpi-paper"),
        ("fair, cpi-gradients", "fair", "cpi-gradients"),
        ("fair, cpi", "fair", "cpi"),
        ("fair, gamma", "fair", "gamma"),
        ("conv-only, gamma", "conv-only", "gamma"),
    ):
        _, rows, scores = bench.scores(CELLS, bn, SHORT * 5, indicators_of(by))
        best = np.argsort(composite_rank(by, scores), kind="stable")[:TOP]
        counts = collections.Counter(
            option for place in best for _, option in rows[place].architecture.choices
        )
        found[name] = {
            "counts": dict(counts),
            "accuracy": float(np.mean([rows[place].accuracy for place in best])),
        }
    accuracies = [row.accuracy for row in rows]
    truth = np.argsort(accuracies)[::-1][:TOP]
    counts = collections.Counter(
        option for place in truth for _, option in rows[place].architecture.choices
    )
    found["trained accuracy"] = {
        "counts": dict(counts),
        "accuracy": float(np.mean([accuracies[place] for place in truth])),
    }
    return found


def figure3(bench: Bench) -> dict[str, Any]:
    """τ of γ after short and long training, and what remains of it at equal numbers of
    convolutions."""
    found = {}
    for steps in (SHORT, LONG):
        _, rows, scores = bench.scores(CELLS, "conv-only", steps, ["gamma"])
        accuracies = [row.accuracy for row in rows]
        convolutions = [
            sum("conv" in option for _, option in row.architecture.choices) for row in rows
        ]
        gamma = column(scores, "gamma")
        found[f"{steps} steps"] = {
            "kendall": kendall(gamma, accuracies),
            "kendall of the number of convolutions": kendall(convolutions, accuracies),
            "kendall, number of convolutions held constant": partial_kendall(
                gamma, accuracies, convolutions
            ),
        }
    return found


def figure5(bench: Bench) -> dict[str, Any]:
    """γ/σ against γ, and each against accuracy, on the MobileNet-style supernet."""
    supernet, rows, scores = bench.scores(MACRO, "fair", SHORT * 5, ["trainability", "gamma"])
    accuracies, costs = [row.accuracy for row in rows], cost_table(supernet)
    flops = [costs.flops(row.architecture) for row in rows]
    ratio, gamma = column(scores, "trainability"), column(scores, "gamma")
    return {
        "Macro": {
            "kendall of trainability and gamma": kendall(ratio, gamma),
            "trainability": kendall(ratio, accuracies),
            "gamma": kendall(gamma, accuracies),
            "FLOPs": kendall(flops, accuracies),
            "trainability, FLOPs held constant": partial_kendall(ratio, accuracies, flops),
            "gamma, FLOPs held constant": partial_kendall(gamma, accuracies, flops),
        }
    }


def figure6(bench: Bench) -> dict[str, Any]:
    """Linear regions after 0, short and long training."""
    found, initial = {}, None
    for steps in (0, SHORT, SHORT * 5, LONG):
        _, rows, scores = bench.scores(CELLS, "fair", steps, ["expressivity-regions"])
        regions = column(scores, "expressivity-regions")
        initial = regions if initial is None else initial
        found[f"{steps} steps"] = {
            "median log-determinant": float(np.median(regions)),
            "kendall with those at initialisation": kendall(regions, initial),
            "kendall with accuracy": kendall(regions, [row.accuracy for row in rows]),
        }
    return found


ANALYSES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "table1": table1,
    "figure3": figure3,
    "figure5": figure5,
    "figure6": figure6,
}


def printed(name: str, found: dict[str, Any]) -> Table:
    """One row a case."""
    flat = {
        case: {**values.get("counts", {}), **{k: v for k, v in values.items() if k != "counts"}}
        for case, values in found.items()
    }
    columns = list(dict.fromkeys(key for values in flat.values() for key in values))
    table = Table("", *columns, title=name)
    for case, values in flat.items():
        texts = (values.get(key, 0) for key in columns)
        table.add_row(case, *(f"{t:.3f}" if isinstance(t, float) else str(t) for t in texts))
    return table


def main() -> None:
    """Runs what was asked; analyses that were not keep their earlier results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("analysis", choices=[*ANALYSES, "all"])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/paper.json")
    given = parser.parse_args()
    one_thread()
    bench = Bench(Places(given.images, given.tables, given.runs))
    content = read_json(given.out) if given.out.exists() else {"schema": 1, "analyses": {}}
    for name in ANALYSES if given.analysis == "all" else [given.analysis]:
        found = ANALYSES[name](bench)
        Console().print(printed(name, found))
        content["analyses"][name] = {"machine": machine(), "samples": SAMPLES, "found": found}
        write_json(given.out, content)


if __name__ == "__main__":
    main()
