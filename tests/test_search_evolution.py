"""Evolution: the numbers of SPOS, and budgets that few architectures meet."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
from test_search import SPACE, milliseconds, problem, run, total

from fbn_deploy.errors import NothingFitsError
from fbn_deploy.search.algorithms.evolution import Evolution, algorithm
from fbn_deploy.space import Decision, SearchSpace


def test_the_default_is_that_of_spos() -> None:
    assert algorithm(1000) == Evolution(
        candidates=1000, population=50, top=10, mutations=25, crossovers=25, probability=0.1
    )
    assert Evolution().generations == 20


def test_a_smaller_search_keeps_the_proportions() -> None:
    small = algorithm(100)
    assert (small.population, small.generations) == (16, 7)
    assert (small.top, small.mutations, small.crossovers) == (3, 8, 8)


def test_evolution_finds_better_networks_than_random_search_does() -> None:
    def best(name: str, seed: int) -> float:
        population = run(name, SPACE, problem(milliseconds(18)), 300, seed).population
        return population.best(1)[0].scores["worth"]

    seeds = range(5)
    evolved = statistics.mean(best("evolution", seed) for seed in seeds)
    drawn = statistics.mean(best("random", seed) for seed in seeds)
    assert drawn < evolved <= 18


def test_a_budget_that_no_random_draw_meets_is_approached() -> None:
    few = milliseconds(5)  # met by 1 in 2,700 architectures
    with pytest.raises(NothingFitsError):
        run("random", SPACE, problem(few), 100)
    population = run("evolution", SPACE, problem(few), 100).population
    assert len(population) >= 10
    assert all(candidate.costs[few.cost] <= 5 for candidate in population)


def test_when_nothing_fits_evolution_still_finds_the_fastest_network_of_all() -> None:
    none = replace(problem(milliseconds(0.5)), cost=lambda arch, budget: 1 + total(arch))
    with pytest.raises(NothingFitsError, match="the fastest one found takes 1 ms on") as error:
        run("evolution", SPACE, none, 1000)
    assert ",".join(f"d{i:02}=0" for i in range(12)) in str(error.value)


def test_a_budget_is_approached_for_as_long_as_generations_come_nearer() -> None:
    """Twenty decisions of seven options, of which 888,030 of 8e16 networks meet the budget."""
    names = (f"d{i:02}" for i in range(20))
    space = SearchSpace("far", tuple(Decision(name, tuple("0123456")) for name in names))
    asked = replace(problem(milliseconds(8)), cost=lambda arch, budget: 1 + total(arch))
    for seed in range(4):
        assert run("evolution", space, asked, 100, seed).population


def test_generations_that_are_not_full_are_made_up_for() -> None:
    names = (f"d{i:02}" for i in range(20))
    space = SearchSpace("far", tuple(Decision(name, tuple("0123456")) for name in names))
    for seed in range(4):
        outcome = run("evolution", space, problem(milliseconds(35)), 100, seed)
        assert outcome.ending == "All 100 candidates were scored."
