"""The survey: what a budget means in a space, in figures and in words."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from fbn_deploy.search.budgets import Budget, violations
from fbn_deploy.search.survey import sample_distinct, survey
from fbn_deploy.space import Decision, SearchSpace

TEN_MS = Budget("latency", 10, "onnxruntime-cpu")
MS = TEN_MS.cost
SPACE = SearchSpace("toy", (Decision("a", ("x", "y")), Decision("b", ("p", "q", "r"))))


def test_a_budget_that_binds_is_told_by_range_and_share() -> None:
    told = survey([TEN_MS], [{MS: ms} for ms in (12.0, 4.0, 8.0, 6.0)])
    assert told.binds
    assert told.share == 0.75
    assert told.text() == (
        "3 of 4 sampled architectures (75%) meet 10 ms on onnxruntime-cpu: "
        "fastest 4 ms, median 7 ms, slowest 12 ms."
    )


def test_a_budget_that_everything_meets_is_said_not_to_bind() -> None:
    told = survey([TEN_MS], [{MS: 2.0 + i / 10} for i in range(24)])
    assert not told.binds
    assert told.text().endswith(
        "Every one of 24 sampled architectures meets 10 ms on onnxruntime-cpu: "
        "the budget does not bind."
    )


def test_a_budget_that_nothing_meets_names_the_fastest() -> None:
    told = survey([TEN_MS], [{MS: 20.0 + i} for i in range(24)])
    assert not told.binds
    assert told.text().endswith(
        "None of 24 sampled architectures meets 10 ms on onnxruntime-cpu: the fastest takes 20 ms."
    )


def test_budgets_that_nothing_meets_together_are_said() -> None:
    flops = Budget("flops", 1e6)
    told = survey([TEN_MS, flops], [{MS: 5.0, "flops": 2e6}, {MS: 15.0, "flops": 5e5}])
    assert [each.meeting for each in told.ranges] == [1, 1]
    assert told.fitting == 0
    assert "lightest 500k FLOPs" in told.text()
    assert told.text().endswith("No sampled architecture meets all the budgets together.")


def test_without_budgets_everything_fits() -> None:
    told = survey([], [{}, {}])
    assert (told.share, told.binds, told.text()) == (1.0, False, "")


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 2e6)), min_size=1))
def test_the_counts_agree_with_the_budgets(drawn: list[tuple[float, float]]) -> None:
    budgets = [TEN_MS, Budget("flops", 1e6)]
    costs = [{MS: ms, "flops": flops} for ms, flops in drawn]
    told = survey(budgets, costs)
    assert told.fitting == sum(violations(budgets, each) == () for each in costs)
    assert all(each.least <= each.median <= each.most for each in told.ranges)
    assert told == survey(budgets, random.Random(0).sample(costs, len(costs)))
    json.dumps(told.to_json())


def test_a_sample_holds_each_network_once() -> None:
    folded = SearchSpace("toy", SPACE.decisions, canonical_form=lambda arch: arch["b"])
    assert {arch["b"] for arch in sample_distinct(folded, 3, seed=0)} == {"p", "q", "r"}
    assert len(sample_distinct(folded, 20, seed=0)) == 3


@given(st.integers())
def test_a_seed_reproduces_the_sample(seed: int) -> None:
    assert sample_distinct(SPACE, 4, seed) == sample_distinct(SPACE, 4, seed)
