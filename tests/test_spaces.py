"""What every search space must keep: one network under several names has one cost."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from fbn_deploy.plugins import names
from fbn_deploy.space import Architecture, SearchSpace
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.definition import PACKAGE, definition
from fbn_deploy.supernet.supernet import Supernet

OPTIONS: dict[str, dict[str, Any]] = {
    "darts": {"channels": 2, "cells": 3},
    "mobilenet": {"width": 0.1, "depth": 4},
    "nasbench101": {"channels": 6},
    "nasbench201": {"channels": 4, "cells": 1},
    "nasbench_macro": {"width": 0.1},
}


def drawn(space: SearchSpace, rng: random.Random) -> Iterator[Architecture]:
    """Valid architectures, unpruned. Most have many first options (``none``, ``off``) or many last
    ones (the identity), which make namesakes."""
    while True:
        often, share = rng.choice((0, -1)), rng.random()
        options = {
            d.name: d.options[often] if rng.random() < share else rng.choice(d.options)
            for d in space.decisions
        }
        if space.is_valid(Architecture.of(options)):
            yield Architecture.of(options)


def namesakes(space: SearchSpace) -> list[set[Architecture]]:
    """Architectures that share a canonical form, among draws and neighbours of theirs."""
    rng, found = random.Random(0), defaultdict(set)
    for each in islice(drawn(space, rng), 100):
        changed = [rng.choice(space.decisions) for _ in range(8)]
        near = [each.replaced(**{d.name: rng.choice(d.options)}) for d in changed]
        for one in (each, *filter(space.is_valid, near)):
            found[space.canonical(one)].add(one)
    return [some for some in found.values() if len(some) > 1]


def shares_an_op(space: SearchSpace, architecture: Architecture) -> bool:
    """Whether two nodes read one op of a NAS-Bench-201 cell, for which the benchmark's own
    canonical text, kept here, has the op twice, as if there were two."""
    if space.name != "nasbench201":
        return False
    options = space.pruned(architecture).values()
    ops = [op for op in options if op not in ("none", "skip_connect")]
    return space.canonical(architecture).count("(") != len(ops)


@pytest.mark.parametrize("name", names(PACKAGE))
def test_architectures_of_one_canonical_text_cost_the_same_once_pruned(name: str) -> None:
    small = definition(name, 16, OPTIONS[name])
    network = small.network(3, 0)
    space = small.search_space(network)
    costs = cost_table(Supernet(network, space, small, 3, "conv-only"))
    groups = namesakes(space)
    assert groups
    for group in random.Random(0).sample(groups, min(len(groups), 10)):
        pruned = {space.pruned(each) for each in group if not shares_an_op(space, each)}
        assert all(space.is_valid(each) and space.pruned(each) == each for each in pruned)
        assert len({space.canonical(each) for each in pruned}) <= 1
        assert len({(costs.flops(each), costs.params(each)) for each in pruned}) <= 1, [
            space.text(each) for each in pruned
        ]
