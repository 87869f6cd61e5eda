"""What a short training of the finalists adds to a search on NAS-Bench-201.

    python benchmarks/finalists.py --images CIFAR10 --tables DIR [--seeds 6] [--samples 1000]
                                   [--finalists 10] [--only SEED] [--out FILE]

For each seed, ``fbn bench`` ranks so many cells of the table by ``cpi`` (the proxy of
``ranking.py``: one cell a stage, 32 channels, 16 pixels, untrained), and the best of them are
tried as ``fbn search`` tries its finalists: without a budget, and of those that fit each Jetson
TX2 budget.
Stated: table accuracy of the pick by ``cpi`` alone, by multiply-adds, by the loss of the trial
alone, by both ranks as a search picks, and the best there is; Kendall τ among the finalists;
seconds. DIR holds ``nasbench201_cifar10.csv.gz``.
Writes ``results/finalists.json``; seeds that are not run this time keep what stands there, and of a
seed that is, trials that stand there are not repeated.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from ranking import NB201, PROXY, TX2, arguments_parser, bench, machine
from rich.console import Console
from rich.table import Table

from fbn_deploy.data import load_data
from fbn_deploy.files import read_json, write_json
from fbn_deploy.indicators import composite_rank
from fbn_deploy.pipeline.answers import LAST
from fbn_deploy.pipeline.finalists import LEAST, by_trial, number_tried
from fbn_deploy.ranking import expected_best, kendall
from fbn_deploy.retrain.trial import LOSS, Trial, TrialSettings
from fbn_deploy.supernet.definition import definition

BUDGETS_MS = (None, 4.0, 5.0, 6.0)  # None: no budget


def scored(given: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """The architectures of one ``fbn bench``, with accuracies, latencies and the parts of cpi."""
    arguments = f"{NB201}{PROXY}{TX2} --epochs 0 --indicators cpi --seed {seed}"
    said = bench(arguments, given, f"finalists_s{seed}", given.samples)
    found: list[dict[str, Any]] = said["architectures"]
    return found


def ranked(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``cells``, which all fit, as a search ranks them: the best first."""
    ranks = composite_rank("cpi", [each["parts"]["cpi"] for each in cells])
    return [cells[number] for number in sorted(range(len(cells)), key=ranks.__getitem__)]


def known_losses(before: dict[str, Any]) -> dict[str, float]:
    """Cell → loss of its trial, of an earlier run of the same seed."""
    return {
        each["text"]: each[LOSS]
        for pick in before.get("picks", [])
        for each in pick["finalists"]
        if each[LOSS] is not None
    }


def tried(
    images: str, cells: list[dict[str, Any]], count: int, seed: int, before: dict[str, Any]
) -> dict[str, Any]:
    """Accuracies of every way to pick, for each budget, and what the trials took, those of the
    earlier run ``before`` included."""
    data = load_data(images, resolution=32, seed=seed)
    space = definition("nasbench201", data.resolution)
    trial = Trial(space, data, TrialSettings(seed=seed))
    architectures = space.search_space(space.network(10, seed))
    losses = known_losses(before)
    seconds: list[float] = []
    picks = []
    for budget_ms in BUDGETS_MS:
        fitting = ranked([c for c in cells if budget_ms is None or c["latency_ms"] <= budget_ms])
        if not fitting:
            raise SystemExit(f"No cell of the sample fits {budget_ms} ms; take more --samples.")
        finalists = fitting[: max(number_tried(count, len(fitting)), 1)]
        enough = len(finalists) >= LEAST  # a search tries no fewer
        for each in finalists if enough else ():
            if each["text"] not in losses:
                started = time.perf_counter()
                loss = trial(architectures.architecture(each["architecture"]))[LOSS]
                losses[each["text"]] = loss if loss < LAST else LAST  # NaN as well: diverged
                seconds.append(time.perf_counter() - started)
        accuracies = [each["accuracy"] for each in finalists]
        places = [float(place) for place in range(len(finalists))]
        quality = {name: [-place for place in places] for name in ("cpi", "trial", "both")}
        if enough:
            reached = [losses[each["text"]] for each in finalists]
            both = by_trial(lambda scores: [each["cpi"] for each in scores])(
                [{"cpi": n, LOSS: loss} for n, loss in zip(places, reached, strict=True)]
            )
            quality["trial"], quality["both"] = (
                [-loss for loss in reached],
                [-place for place in both],
            )
        picks.append(
            {
                "budget_ms": budget_ms,
                "fitting": len(fitting),
                "cpi": accuracies[0],
                "flops": max(fitting, key=lambda each: each["flops"])["accuracy"],
                "trial": expected_best(quality["trial"], accuracies),
                "both": expected_best(quality["both"], accuracies),
                "best": max(each["accuracy"] for each in fitting),
                **{f"kendall_{name}": kendall(of, accuracies) for name, of in quality.items()},
                "finalists": [
                    {"text": e["text"], "accuracy": e["accuracy"], LOSS: losses.get(e["text"])}
                    for e in finalists
                ],
            }
        )
    return {
        "picks": picks,
        "trials": before.get("trials", 0) + len(seconds),
        "seconds_per_trial": (
            statistics.median(seconds) if seconds else before.get("seconds_per_trial")
        ),
    }


def table_of(seeds: dict[str, Any]) -> Table:
    """Mean over seeds, for each budget."""
    keys = ("cpi", "flops", "trial", "both", "best", "kendall_cpi", "kendall_trial", "kendall_both")
    shown = Table("budget", "seeds", *(key.replace("kendall_", "τ ") for key in keys))
    for number, budget_ms in enumerate(BUDGETS_MS):
        picks = [each["picks"][number] for each in seeds.values()]
        means = [
            statistics.fmean([p[key] for p in picks if p[key] is not None] or [0.0]) for key in keys
        ]
        label = "none" if budget_ms is None else f"{budget_ms:g} ms"
        shown.add_row(label, str(len(picks)), *(f"{mean:.2f}" for mean in means))
    return shown


def main() -> None:
    """Runs the seeds in turn."""
    parser = arguments_parser(__doc__, "finalists.json")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--only", type=int)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--finalists", type=int, default=10)
    given = parser.parse_args()
    for seed in range(given.seeds) if given.only is None else [given.only]:
        cells = scored(given, seed)
        before = read_json(given.out) if given.out.exists() else {"seeds": {}}
        earlier = before["seeds"].get(str(seed), {})
        found = tried(str(given.images), cells, given.finalists, seed, earlier)
        entry = {"samples": given.samples, "machine": machine(torch.get_num_threads()), **found}
        seeds = {**before["seeds"], str(seed): entry}
        write_json(given.out, {**before, "schema": 1, "seeds": seeds})
        Console().print(f"seed {seed}", table_of({str(seed): found}))
    Console().print(table_of(read_json(given.out)["seeds"]))


if __name__ == "__main__":
    main()
