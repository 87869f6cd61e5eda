"""Blocks of a network: looked up where options bring the same ones everywhere, else cut."""

from __future__ import annotations

import random

import pytest
from test_blocks import Cuttable

from fbn_deploy.latency.composition import Composition, blocks_of, seams_of
from fbn_deploy.latency.counting import LEAST_NETWORKS, Counting
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import decisions_of_choices


def counting_of(space: Cuttable) -> Counting:
    return Counting(decisions_of_choices(space.supernet.network), space.deployed)


@pytest.mark.parametrize(("name", "looked_up"), [("mobilenet", True), ("nasbench201", False)])
def test_counts_are_those_of_the_cut_graph_and_a_chain_is_cut_no_more_than_it_takes(
    name: str, looked_up: bool
) -> None:
    space = Cuttable(name)
    counting = counting_of(space)
    for architecture in space.samples(60):
        counting.cut(architecture, space.deployed(architecture))
    cut, rng = counting.num_cut, random.Random(5)
    others = [space.supernet.space.sample(rng) for _ in range(12)]
    for architecture in others:
        model = space.deployed(architecture)
        seams = {} if looked_up else seams_of(model)
        assert counting(architecture) == Composition(blocks_of(counting.cutter(model)), seams)
    assert counting.num_cut == (cut if looked_up else cut + len(others))


def test_nothing_is_looked_up_before_enough_was_seen() -> None:
    space = Cuttable("mobilenet")
    counting = counting_of(space)
    decisions = space.supernet.space.decisions
    often = Architecture.of({d.name: d.options[0] for d in decisions})
    rare = Architecture.of({**often, decisions[0].name: decisions[0].options[1]})
    for number in range(LEAST_NETWORKS):
        assert counting.num_cut == number
        counting(often)
    counting(often)
    assert counting.num_cut == LEAST_NETWORKS
    counting(rare)
    counting(rare)
    counting(rare)
    assert counting.num_cut == LEAST_NETWORKS + 2


def test_the_very_first_network_of_a_cell_space_has_its_seams() -> None:
    """A search against a device's table has cut none before."""
    space = Cuttable("nasbench201")
    (architecture,) = space.samples(1)
    seams = seams_of(space.deployed(architecture))
    assert seams
    assert counting_of(space)(architecture).seams == seams
