"""What a search aims at: as far below its budget as a careful measurement is above a cost."""

from __future__ import annotations

import pytest
from test_confirm import BUDGET, Fake, Meter

from fbn_deploy.pipeline.aim import MOST, aimed, stretches
from fbn_deploy.progress import Silent
from fbn_deploy.search.budgets import Budget
from fbn_deploy.space import Architecture

COSTS_MS = {"a": 3.0, "b": 9.0, "c": 12.0}


def found(meter: Meter | None, *budgets: Budget) -> dict[str, float]:
    surveyed = [
        (Architecture.of({"name": name}), {each.cost: ms for each in budgets})
        for name, ms in COSTS_MS.items()
    ]
    latencies = {"onnxruntime-cpu": Fake({}, {}, meter)}
    return stretches(budgets, surveyed, latencies, lambda a: a["name"], Silent())


def test_the_surveyed_network_nearest_to_the_budget_tells() -> None:
    meter = Meter({"b": 9.9})
    assert found(meter, BUDGET) == {BUDGET.cost: pytest.approx(1.1)}
    assert meter.asked == ["b"]


def test_nothing_is_promised_that_was_not_measured_and_no_moment_shrinks_the_space() -> None:
    assert found(Meter({"b": 8.0}), BUDGET) == {BUDGET.cost: 1.0}
    assert found(Meter({"b": 30.0}), BUDGET) == {BUDGET.cost: MOST}


def test_a_crowd_tells_nothing_and_its_record_stays() -> None:
    meter = Meter({"b": 14.0}, crowded="b")
    assert found(meter, BUDGET) == {BUDGET.cost: 1.0}
    assert meter.forgotten == []


def test_candidates_are_held_against_the_budget_over_its_stretch() -> None:
    flops = Budget("flops", 10.0)
    assert aimed([BUDGET, flops], {BUDGET.cost: 1.2}) == (
        Budget("latency", 8.333, "onnxruntime-cpu"), flops,
    )  # fmt: skip
    assert aimed([BUDGET], {BUDGET.cost: 1.0}) == (BUDGET,)


def test_only_targets_that_are_here_are_measured_on() -> None:
    assert found(None, BUDGET) == {}
    assert found(Meter({}), Budget("flops", 10.0)) == {}
