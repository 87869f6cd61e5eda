"""Two looks at candidates: the second at the best alone, with the ranks of a look at all."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fbn_deploy.distributed import ALONE
from fbn_deploy.files import read_json
from fbn_deploy.indicators import composite_rank, indicators_of
from fbn_deploy.pipeline.answers import Scorer
from fbn_deploy.pipeline.context import Given, open_run
from fbn_deploy.pipeline.looks import Looks
from fbn_deploy.pipeline.search import search
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.pipeline.sharing import SharedScoring
from fbn_deploy.progress import reporter
from fbn_deploy.search.budgets import flops_budget
from fbn_deploy.search.candidates import Candidate, Population
from fbn_deploy.search.survey import sample_distinct
from fbn_deploy.space import Architecture, Decision, SearchSpace

SPACE = SearchSpace("numbers", [Decision(f"d{n}", tuple("0123456789")) for n in range(3)])
SECOND = "trainability-cka"
FIRST = tuple(each for each in indicators_of("cpi") if each != SECOND)


class Numbers:
    """Values drawn from the architecture; counts whom it was asked for."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.asked: list[Architecture] = []

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.names, True)

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        self.asked.append(architecture)
        return {
            name: random.Random(f"{SPACE.text(architecture)} {name}").random()
            for name in self.names
        }


def test_the_second_look_is_at_the_best_and_ranks_as_if_it_were_at_all(tmp_path: Path) -> None:
    first, second, both = Numbers(FIRST), Numbers([SECOND]), Numbers([*FIRST, SECOND])
    shared = SharedScoring([first, second], SPACE, ALONE)
    path = tmp_path / "scores.jsonl"
    looks = Looks("cpi", *(Scorer(shared, SPACE, "", path, number) for number in (0, 1)))
    drawn = sample_distinct(SPACE, 200, seed=0)
    population = Population(looks.rank)
    for generation in range(4):
        new = drawn[50 * generation :][:50]
        scores = looks.score(new)
        population = population.grown(
            Candidate(each, SPACE.canonical(each), values, {})
            for each, values in zip(new, scores, strict=True)
        )
        expected = composite_rank("cpi", [both(each.architecture) for each in population])
        assert list(population.ranks) == expected
    assert len(first.asked) == 200
    assert 40 <= len(second.asked) < 100, "A fifth of all, and who stood there before."
    told = looks.with_second_looks(population)
    assert told.ranks == population.ranks
    again = [each for each in told if SECOND in each.scores]
    assert len(again) == len(second.asked)
    assert {each.canonical for each in told.best(40)} <= {each.canonical for each in again}


def test_a_search_remembers_both_looks(tmp_path: Path) -> None:
    given = Given(space="nasbench201", resolution=16, options={"channels": 4, "cells": 1})
    context = open_run(tmp_path, given, reporter(True))
    settings = SearchSettings(
        (flops_budget("300M"),), candidates=20, probe_batches=2, probe_size=8, algorithm="random"
    )
    found = search(context, settings)
    values: list[dict[str, Any]] = [each["indicators"] for each in found["candidates"]]
    assert [SECOND in each for each in values] == [True] * 4 + [False] * 16
    assert all(each.keys() >= set(FIRST) for each in values)
    lines = context.run.scores.read_bytes()
    context.run.search.unlink()
    assert search(context, settings)["candidates"] == found["candidates"]
    assert context.run.scores.read_bytes() == lines, "Nothing was scored again."
    assert read_json(context.run.search)["best"]["indicators"] == found["best"]["indicators"]
