"""The population: each network once, ranked anew as it grows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fbn_deploy.search.candidates import Candidate, Population
from fbn_deploy.space import Architecture


def fewer_losses(candidates: Sequence[Candidate]) -> list[float]:
    """The number of candidates with a higher score; ties share a rank."""
    scores = [each.scores for each in candidates]
    return [float(sum(other["s"] > each["s"] for other in scores)) for each in scores]


def candidate(name: str, score: float) -> Candidate:
    return Candidate(Architecture.of({"d": name}), name, {"s": score}, {})


def test_a_population_is_ranked_best_first() -> None:
    population = Population(fewer_losses, (candidate("a", 1), candidate("b", 3)))
    assert [(rank, each.canonical) for rank, each in population.ranked()] == [(0, "b"), (1, "a")]


def test_growing_ranks_everyone_anew() -> None:
    small = Population(fewer_losses, (candidate("a", 1), candidate("b", 3)))
    grown = small.grown([candidate("c", 2)])
    assert small.ranks == (1, 0)
    assert grown.ranks == (2, 0, 1)


def test_of_equals_the_one_found_first_comes_first() -> None:
    population = Population(fewer_losses, (candidate("b", 1), candidate("a", 1)))
    assert population.ranks == (0, 0)
    assert [each.canonical for each in population.best(2)] == ["b", "a"]


def test_more_than_there_are_gives_all_there_are() -> None:
    assert len(Population(fewer_losses, (candidate("a", 1),)).best(10)) == 1


def test_an_empty_population_asks_for_no_ranks() -> None:
    def never(candidates: object) -> list[float]:
        raise AssertionError(candidates)

    assert Population(never).ranked() == []


def test_a_duplicate_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        Population(fewer_losses, (candidate("a", 1), candidate("a", 2)))
