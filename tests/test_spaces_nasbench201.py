"""NAS-Bench-201: cells without what their output does not depend on."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from fbn_deploy.search.survey import sample_distinct
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import select_path
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet
from searchspaces import nasbench201

TINY = definition("nasbench201", 8, {"channels": 4, "cells": 1})
CLEAN = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"
DEAD_ENDS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|none~1|none~2|"
FROM_NOTHING = "|none~0|+|none~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_1x1~1|skip_connect~2|"


def cells() -> list[Architecture]:
    names = [f"{j}<-{i}" for j, i in nasbench201.EDGES]
    options = itertools.product(nasbench201.OPS, repeat=len(names))
    return [Architecture.of(dict(zip(names, ops, strict=True))) for ops in options]


def test_a_pruned_cell_is_the_same_network_and_has_nothing_left_to_prune() -> None:
    for cell in cells():
        once = Architecture.of(nasbench201.pruned(cell))
        assert nasbench201.canonical(once) == nasbench201.canonical(cell)
        assert nasbench201.pruned(once) == dict(once)


@pytest.mark.parametrize("text", [DEAD_ENDS, FROM_NOTHING])
def test_dead_ends_and_what_reads_nothing_go(text: str) -> None:
    cell = Architecture.of(nasbench201.parse(text))
    assert nasbench201.text(Architecture.of(nasbench201.pruned(cell))) == CLEAN


def test_a_pruned_cell_computes_the_same() -> None:
    supernet = build_supernet(TINY, 3)
    network, rng = supernet.network.eval(), random.Random(0)
    images = torch.randn(2, 3, 8, 8)
    pruned = 0
    for cell in rng.sample(cells(), 60):
        outputs = []
        for each in (cell, supernet.space.pruned(cell)):
            select_path(network, each)
            outputs.append(network(images))
        assert torch.equal(*outputs)
        pruned += supernet.space.pruned(cell) != cell
    assert pruned > 10


def test_what_is_drawn_is_pruned() -> None:
    space = build_supernet(TINY, 3).space
    drawn = sample_distinct(space, 60, seed=0)
    rng = random.Random(0)
    drawn += [space.mutate(each, rng, 0.5) for each in drawn]
    drawn += [space.crossover(*rng.sample(drawn, 2), rng) for _ in range(30)]
    assert [space.pruned(each) for each in drawn] == drawn
