"""What every search algorithm must do, asked of each one that exists."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fbn_deploy.errors import FBNError, NothingFitsError
from fbn_deploy.search import algorithms
from fbn_deploy.search.algorithms.random import RandomSearch
from fbn_deploy.search.budgets import Budget
from fbn_deploy.search.candidates import Candidate
from fbn_deploy.search.problem import Outcome, Problem, Progress
from fbn_deploy.space import Architecture, Decision, SearchSpace

# Twelve decisions of four options: 16 million networks. An option costs its digit and scores it
# where the decision is even, so the best network inside a budget spends on the even ones only.
SPACE = SearchSpace("digits", tuple(Decision(f"d{i:02}", tuple("0123")) for i in range(12)))
TINY = SearchSpace("tiny", (Decision("d00", ("0", "1")), Decision("d01", ("0", "1", "2"))))


def total(architecture: Architecture) -> float:
    return float(sum(map(int, architecture.values())))


def score(architectures: Sequence[Architecture]) -> list[dict[str, float]]:
    return [
        {"worth": float(sum(int(v) for name, v in arch.items() if int(name[1:]) % 2 == 0))}
        for arch in architectures
    ]


def rank(candidates: Sequence[Candidate]) -> list[float]:
    worths = [each.scores["worth"] for each in candidates]
    return [float(sum(other > worth for other in worths)) for worth in worths]


def problem(*budgets: Budget) -> Problem:
    return Problem(score, rank, lambda architecture, budget: total(architecture), budgets)


def milliseconds(limit: float) -> Budget:
    return Budget("latency", limit, "onnxruntime-cpu")


def run(name: str, space: SearchSpace, asked: Problem, candidates: int, seed: int = 0) -> Outcome:
    return algorithms.load(name, candidates).run(space, asked, seed)


every_algorithm = pytest.mark.parametrize("name", algorithms.names())


def test_the_algorithms_are_the_files() -> None:
    assert {"evolution", "random"} <= set(algorithms.names())


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FBNError, match=r"there are: .*Did you mean 'evolution'"):
        algorithms.load("evolutoin")


@every_algorithm
def test_no_candidates_at_all_are_refused(name: str) -> None:
    with pytest.raises(FBNError, match="at least one candidate"):
        algorithms.load(name, 0)


@every_algorithm
@pytest.mark.parametrize("candidates", [1, 7, 50, 120])
def test_exactly_the_candidates_asked_for_are_scored(name: str, candidates: int) -> None:
    outcome = run(name, SPACE, problem(), candidates)
    assert len(outcome.population) == candidates
    assert outcome.ending == f"All {candidates} candidates were scored."


@every_algorithm
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_every_candidate_fits_and_is_a_network_of_its_own(name: str, seed: int) -> None:
    budgets = (milliseconds(18), Budget("flops", 20))
    outcome = run(name, SPACE, problem(*budgets), 60, seed)
    for candidate in outcome.population:
        assert candidate.costs == {b.cost: total(candidate.architecture) for b in budgets}
        assert total(candidate.architecture) <= 18
    assert len({c.canonical for c in outcome.population}) == len(outcome.population)


@every_algorithm
def test_the_same_seed_gives_the_same_outcome(name: str) -> None:
    asked = problem(milliseconds(18))
    assert run(name, SPACE, asked, 60, seed=3) == run(name, SPACE, asked, 60, seed=3)


@every_algorithm
def test_another_seed_gives_another_population(name: str) -> None:
    one, two = (run(name, SPACE, problem(), 20, seed).population for seed in (0, 1))
    assert [c.canonical for c in one] != [c.canonical for c in two]


@every_algorithm
def test_the_outcome_does_not_hang_on_the_hash_seed_of_python(name: str) -> None:
    program = (
        "from test_search import *\n"
        f"outcome = run({name!r}, SPACE, problem(milliseconds(18)), 40)\n"
        "print([c.canonical for c in outcome.population], outcome.tally.text())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(printed) == 1


class Killed(Exception):
    pass


@every_algorithm
@pytest.mark.parametrize("answers_before_the_kill", [0, 1, 30, 75])
def test_a_killed_search_replayed_from_its_answers_ends_the_same(
    name: str, answers_before_the_kill: int
) -> None:
    kept: dict[tuple[str, str], float] = {}
    paid_for: list[tuple[str, str]] = []
    answers_left = float(answers_before_the_kill)

    def cost(architecture: Architecture, budget: Budget) -> float:
        nonlocal answers_left
        key = SPACE.canonical(architecture), budget.cost
        if key not in kept:
            if answers_left <= 0:
                raise Killed
            answers_left -= 1
            kept[key] = total(architecture)
            paid_for.append(key)
        return kept[key]

    asked = problem(milliseconds(18))
    resumable = replace(asked, cost=cost)
    with pytest.raises(Killed):
        run(name, SPACE, resumable, 60)
    answers_left = float("inf")
    assert run(name, SPACE, resumable, 60) == run(name, SPACE, asked, 60)
    assert len(paid_for) == len(set(paid_for))


@every_algorithm
def test_the_same_network_under_two_names_is_scored_once(name: str) -> None:
    by_sum = SearchSpace("sums", SPACE.decisions, canonical_form=lambda arch: str(total(arch)))
    outcome = run(name, by_sum, problem(), 500)
    assert len(outcome.population) <= 37  # the sums 0 to 36
    assert outcome.tally.duplicates > 0


@every_algorithm
def test_an_exhausted_space_ends_the_search_and_says_so(name: str) -> None:
    outcome = run(name, TINY, problem(), 500)
    assert len(outcome.population) == TINY.size == 6
    assert outcome.ending.startswith("The space is exhausted")
    assert "6 of 500 candidates were scored" in outcome.ending


@every_algorithm
def test_when_too_few_fit_the_search_ends_with_those_that_do(name: str) -> None:
    outcome = run(name, TINY, problem(milliseconds(0.5)), 500)
    assert [dict(c.architecture) for c in outcome.population] == [{"d00": "0", "d01": "0"}]
    assert outcome.tally.over_budget == {"latency_ms:onnxruntime-cpu": 5}


@every_algorithm
def test_when_nothing_fits_the_nearest_is_named(name: str) -> None:
    asked = replace(problem(milliseconds(0.5)), cost=lambda arch, budget: 3.2 + total(arch))
    with pytest.raises(NothingFitsError) as error:
        run(name, TINY, asked, 50)
    assert error.value.exit_code == 3
    assert "None of 6 architectures meets 0.5 ms on onnxruntime-cpu" in str(error.value)
    assert "the fastest one found takes 3.2 ms on onnxruntime-cpu: d00=0,d01=0" in str(error.value)


@every_algorithm
def test_of_several_budgets_the_nearest_is_what_meets_most_of_them(name: str) -> None:
    def cost(architecture: Architecture, budget: Budget) -> float:
        return total(architecture) if budget.kind == "flops" else 10 - total(architecture)

    budgets = (milliseconds(7), Budget("flops", 2))
    with pytest.raises(NothingFitsError) as error:
        run(name, TINY, replace(problem(*budgets), cost=cost), 50)
    message = str(error.value)
    assert "meets 0.002k FLOPs and 7 ms on onnxruntime-cpu" in message
    assert "the nearest one found takes 0.002k FLOPs and 8 ms on onnxruntime-cpu" in message


@every_algorithm
def test_an_impossible_budget_costs_a_bounded_number_of_measurements(name: str) -> None:
    measured = 0

    def cost(architecture: Architecture, budget: Budget) -> float:
        nonlocal measured
        measured += 1
        return 100.0

    with pytest.raises(NothingFitsError):
        run(name, SPACE, replace(problem(milliseconds(1)), cost=cost), 1000)
    assert measured <= 300


@every_algorithm
def test_a_latency_is_only_measured_where_the_counts_fit(name: str) -> None:
    asked: list[tuple[str, str]] = []

    def cost(architecture: Architecture, budget: Budget) -> float:
        asked.append((SPACE.canonical(architecture), budget.kind))
        assert budget.kind == "flops" or total(architecture) <= 18
        return total(architecture)

    budgets = (milliseconds(16), Budget("flops", 18))
    outcome = run(name, SPACE, replace(problem(*budgets), cost=cost), 60)
    assert len(asked) == len(set(asked))
    assert set(outcome.tally.over_budget) == {"flops", "latency_ms:onnxruntime-cpu"}


@every_algorithm
def test_the_tally_accounts_for_every_draw(name: str) -> None:
    tally = run(name, SPACE, problem(milliseconds(16)), 60).tally
    over_budget = sum(tally.over_budget.values())
    assert tally.drawn == tally.duplicates + over_budget + tally.fitting
    assert tally.fitting == 60
    assert over_budget > 0


@every_algorithm
def test_progress_is_told_after_every_new_network_and_every_batch(name: str) -> None:
    told: list[Progress] = []
    outcome = run(name, SPACE, replace(problem(), progress=told.append), 60)
    assert all(a.scored <= b.scored for a, b in itertools.pairwise(told))
    assert len([p for p in told if p.scored == 0]) > 1
    assert told[-1] == Progress(scored=60, total=60, tally=outcome.tally)


def test_random_search_prefers_no_architecture() -> None:
    outcome = RandomSearch(2000, batch=2000).run(SPACE, problem(), seed=0)
    share = sum(candidate.architecture["d00"] == "3" for candidate in outcome.population) / 2000
    assert share == pytest.approx(1 / 4, abs=0.04)  # four standard deviations
