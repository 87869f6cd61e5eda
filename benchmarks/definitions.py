"""What each perspective's ranking owes to its definition: variants on the same networks.

    python benchmarks/definitions.py --images CIFAR10 --tables DIR [--seeds 0,1,2] [--samples 300]

The base of ``ablation.py`` (NAS-Bench-201, one cell a stage, 32 channels, 16 pixels, fair
BatchNorm), untrained and after 1,500 steps, 8 batches of 64 images. Variants of γ/σ (how channels
and BatchNorms combine, squares, whose σ), of Monte Carlo BatchNorm (T, what varies, what the
variance is divided by), of ``cpi-gradients`` (how its parts' ranks combine, of how many images),
and the mean of its ranks over three initialisations. Kendall τ with accuracies, and τ with
multiply-adds held constant. Prints a table and writes ``results/definitions.json``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import BASE, trained
from numpy.typing import NDArray
from ranking import arguments_parser
from rich.console import Console
from rich.table import Table
from trained_tables import Places, Setup, machine, one_thread, scoring_of

from fbn_deploy.files import read_json, write_json
from fbn_deploy.indicators import (
    Candidate,
    Indicator,
    Need,
    Norm,
    composite_rank,
    indicators_of,
)
from fbn_deploy.indicators._composite import COMBINED
from fbn_deploy.ranking import kendall, partial_kendall
from fbn_deploy.space import Architecture

BATCHES, FLOPS = 8, "flops"
READ = frozenset({Need.BATCHES, Need.TRAINING})
Reduced = Callable[[torch.Tensor], torch.Tensor]


def ratio(channels: Reduced, norms: Reduced, *, of: Callable[[Norm], bool] = lambda _: True) -> Any:
    """|γ|/σ, first over channels, then over the path's BatchNorms."""

    def value(candidate: Candidate) -> float:
        alive = [n for n in candidate.observation.norms if n.is_alive and of(n)]
        found = [channels(n.gamma.abs() / n.sigma) for n in alive]
        return float(norms(torch.stack(found))) if found else math.nan

    return value


def one_batch_ratio(candidate: Candidate) -> float:
    """The default's medians, with σ of the first batch in place of the mean over all."""
    setting = candidate.setting
    first = replace(setting.probe, images=setting.probe.images[:1], labels=setting.probe.labels[:1])
    alone = Candidate(replace(setting, probe=first), candidate.architecture)
    value: float = ratio(torch.median, torch.median)(alone)
    return value


def spread(passes: int, read: Reduced, *, relative: bool = False) -> Callable[[Candidate], float]:
    """Variance over the first ``passes`` of what is read of the anchors' logits; ``relative``: to
    its variance over images."""

    def value(candidate: Candidate) -> float:
        observation = candidate.observation
        seen = read(observation.logits[:passes, : observation.anchors].double())
        between = seen.mean(0).var(0).mean() if relative else torch.ones(())
        return float(seen.var(0).mean() / between)

    return value


def shared_information(candidate: Candidate) -> float:
    """Entropy of the mean prediction less the mean entropy (BALD, Houlsby et al. 2011)."""
    observation = candidate.observation
    p = observation.logits[:, : observation.anchors].double().softmax(-1)

    def entropy(of: torch.Tensor) -> torch.Tensor:
        return -(of * of.clamp(min=1e-30).log()).sum(-1)

    return float((entropy(p.mean(0)) - entropy(p).mean(0)).mean())


def softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1)


def logits(of: torch.Tensor) -> torch.Tensor:
    return of


def ends_choice(norm: Norm) -> bool:
    return norm.ends_choice


VARIANTS: dict[str, tuple[Callable[[Candidate], float], bool]] = {
    # name: (formula, whether more is better)
    "γ/σ, medians (trainability)": (ratio(torch.median, torch.median), True),
    "γ/σ, medians, σ of one batch": (one_batch_ratio, True),
    "γ/σ, means": (ratio(torch.mean, torch.mean), True),
    "γ²/σ², means": (ratio(lambda r: r.square().mean(), torch.mean), True),
    "γ/σ, mean of channels, least BatchNorm": (ratio(torch.mean, torch.amin), True),
    "γ/σ, median of channels, sum of BatchNorms": (ratio(torch.median, torch.sum), True),
    "γ/σ, medians, ends of ops": (ratio(torch.median, torch.median, of=ends_choice), True),
    "variance of softmax, T = 2": (spread(2, softmax), False),
    "variance of softmax, T = 4 (uncertainty)": (spread(4, softmax), False),
    "variance of softmax, T = 8": (spread(8, softmax), False),
    "variance of softmax relative to images, T = 8": (spread(8, softmax, relative=True), False),
    "variance of logits, T = 8": (spread(8, logits), False),
    "variance of logits relative to images, T = 2": (spread(2, logits, relative=True), False),
    "variance of logits relative to images, T = 8": (spread(8, logits, relative=True), False),
    "shared information, T = 8": (shared_information, False),
}
INDICATORS = tuple(
    Indicator(name, "", formula, better, READ) for name, (formula, better) in VARIANTS.items()
)
CPI = "cpi-gradients"
PARTS = indicators_of(CPI)

Ranks = NDArray[np.float64]
WAYS: dict[str, Callable[[Ranks], Ranks]] = {
    **COMBINED,
    "worst": lambda ranks: ranks.max(0),
    "best": lambda ranks: ranks.min(0),
    "square": lambda ranks: np.square(ranks).sum(0),
}


def scored(
    places: Places, setup: Setup, architectures: Sequence[Architecture], asked: Sequence[Any]
) -> list[dict[str, float]]:
    """What indicators say of ``architectures``."""
    scoring = scoring_of(setup, *places.supernet(setup), asked)
    return [scoring(each) for each in architectures]


def cpi_variants(scores: Sequence[Mapping[str, float]]) -> dict[str, Ranks]:
    """How good by every way to combine the ranks of cpi-gradients' parts."""
    ranks = np.array([composite_rank(part, scores) for part in PARTS])
    return {f"ranks of {CPI}, {name}": -of(ranks) for name, of in WAYS.items()}


def measured(places: Places, seed: int, samples: int) -> dict[str, dict[str, list[float | None]]]:
    """State of the supernet → variant → [τ, τ with multiply-adds held constant]."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for state, base in (("untrained", BASE), ("1,500 steps", trained(1500))):
        setup = replace(base, seed=seed, batches=BATCHES)
        _, supernet = places.supernet(setup)
        rows = places.rows(setup.benchmark, supernet, samples, seed)
        architectures = [row.architecture for row in rows]
        scores = scored(places, setup, architectures, [*INDICATORS, *PARTS, FLOPS])
        quality = {
            each.name: quality_of([s[each.name] for s in scores], each.higher_is_better)
            for each in INDICATORS
        }
        quality |= cpi_variants(scores)
        if state == "untrained":
            for images in (16, 32, 128):
                few = replace(setup, batches=1, batch_size=images)
                quality[f"{CPI} of {images} images"] = -np.array(
                    composite_rank(CPI, scored(places, few, architectures, PARTS))
                )
            several = [
                composite_rank(
                    CPI,
                    scored(places, replace(setup, seed=seed + k, batches=1), architectures, PARTS),
                )
                for k in range(3)
            ]
            quality[f"{CPI}, mean of three initialisations"] = -np.array(several).mean(0)
        accuracies = [row.accuracy for row in rows]
        flops = [s[FLOPS] for s in scores]
        found[state] = {
            name: [kendall(of, accuracies), partial_kendall(of, accuracies, flops)]
            for name, of in quality.items()
        }
    return found


def quality_of(values: Sequence[float], higher_is_better: bool) -> Ranks:
    """More is better; what is not finite is the worst."""
    signed = np.array(values) if higher_is_better else -np.array(values)
    return np.where(np.isfinite(signed), signed, -np.inf)


def printed(seeds: Mapping[str, Any]) -> Table:
    table = Table("definition", title="Kendall τ (multiply-adds held constant), mean over seeds")
    states = ("untrained", "1,500 steps")
    for state in states:
        table.add_column(state)
    names = dict.fromkeys(n for s in seeds.values() for state in states for n in s[state])
    for name in names:
        cells = []
        for state in states:
            pairs = [s[state][name] for s in seeds.values() if name in s[state]]
            means = [
                statistics.mean(values) if None not in values else None
                for values in zip(*pairs, strict=True)
            ]
            cells.append(" ".join("–" if m is None else f"{m:.3f}" for m in means) or "–")
        table.add_row(name, *cells)
    return table


def main() -> None:
    """Runs the seeds in turn."""
    parser = arguments_parser(__doc__, "definitions.json")
    parser.set_defaults(runs=Path("runs/ablation"))  # its supernets are here too
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--samples", type=int, default=300)
    given = parser.parse_args()
    one_thread()
    places = Places(given.images, given.tables, given.runs)
    content = read_json(given.out) if given.out.exists() else {"schema": 1, "seeds": {}}
    for seed in given.seeds.split(","):
        content["seeds"][seed] = measured(places, int(seed), given.samples)
        content |= {"machine": machine(), "samples": given.samples, "batches": BATCHES}
        write_json(given.out, content)
    Console(width=120).print(printed(content["seeds"]))


if __name__ == "__main__":
    main()
