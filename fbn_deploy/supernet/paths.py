"""Path samplers: which single paths a training step runs.

``uniform`` (SPOS, Guo et al. 2020): one path, each choice drawn uniformly. ``fair`` (FairNAS
strict fairness, Chu et al. 2021): a permutation of the K options for every decision, so that K
paths activate each option equally often; their gradients add up to one optimizer step.

A sampler is a pure function of (seed, step): a resumed run draws what the killed one would have.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fbn_deploy.errors import unknown
from fbn_deploy.space import Decision

Path = dict[str, str]
PathSampler = Callable[[Sequence[Decision], int, int], list[Path]]


def uniform(decisions: Sequence[Decision], seed: int, step: int) -> list[Path]:
    """One path, each option with equal odds."""
    rng = random.Random(f"{seed}/{step}")
    return [{d.name: rng.choice(d.options) for d in decisions}]


def fair(decisions: Sequence[Decision], seed: int, step: int) -> list[Path]:
    """K paths, K the largest number of options: each option of a K-way decision runs once.

    A decision with fewer options goes through fresh permutations of them until K are drawn, so
    its options differ by at most one activation a step.
    """
    rng = random.Random(f"{seed}/{step}")
    count = max(len(d.options) for d in decisions)
    columns: dict[str, list[str]] = {}
    for decision in decisions:
        drawn: list[str] = []
        while len(drawn) < count:
            drawn += rng.sample(decision.options, len(decision.options))
        columns[decision.name] = drawn[:count]
    return [{name: drawn[k] for name, drawn in columns.items()} for k in range(count)]


SAMPLERS: dict[str, PathSampler] = {"uniform": uniform, "fair": fair}


def sampler(name: str) -> PathSampler:
    """The sampler of that name, or an error that lists what exists."""
    if name not in SAMPLERS:
        raise unknown("path sampler", name, SAMPLERS)
    return SAMPLERS[name]
