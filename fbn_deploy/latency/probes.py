"""Architectures that a predictor is fitted on: over the whole range that a search may meet.

The first are as far out as a space goes: each option everywhere. (Without them, the 60 probes of
``mobilenet`` had 6.9 MB of weights at least, and networks of 4.6 to 6.2 MB were predicted 10 to
20 % too slow on ONNX Runtime.) Uniform draws crowd around the middle of a space, while evolution
leaves it. So every second one of the others draws its options with weights of its own, squares of
exponential variates: now mostly identities, now mostly large kernels. The same space gives the
same probes, whatever is searched for.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from fbn_deploy.space import Architecture, SearchSpace

_SEED = 20260101
_TRIES = 200  # draws for each probe wanted, before a small space is taken as it is
_RARE = 1e-3  # of an option's weight: none is impossible
_OUTERMOST = 0.25  # of the probes at most


def probe_architectures(space: SearchSpace, count: int, seed: int = _SEED) -> list[Architecture]:
    """``count`` different networks of ``space``; fewer where it hardly has as many."""
    rng = random.Random(seed)
    outermost = itertools.islice(covering_architectures(space), int(_OUTERMOST * count))
    found = {space.canonical(each): each for each in outermost}
    for number in range(_TRIES * count):
        if len(found) == count:
            break
        drawn = _leaning(space, rng) if number % 2 else space.sample(rng)
        if space.is_valid(drawn):
            found.setdefault(space.canonical(drawn), drawn)
    return list(found.values())


def covering_architectures(space: SearchSpace) -> Iterator[Architecture]:
    """Architectures in which every option of every decision stands at least once, where the
    space's rule of validity allows it: option k everywhere, for each k."""
    for number in range(max(len(decision.options) for decision in space.decisions)):
        architecture = Architecture.of(
            {d.name: d.options[number % len(d.options)] for d in space.decisions}
        )
        if space.is_valid(architecture):
            yield architecture


def _leaning(space: SearchSpace, rng: random.Random) -> Architecture:
    options = sorted({option for decision in space.decisions for option in decision.options})
    weights = {option: rng.expovariate(1.0) ** 2 + _RARE for option in options}
    return Architecture.of(
        {
            d.name: rng.choices(d.options, [weights[option] for option in d.options])[0]
            for d in space.decisions
        }
    )
