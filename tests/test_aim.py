"""What a search aims at: as far below its budget as a careful measurement is above a cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from test_confirm import BUDGET, Fake, Meter, Told
from test_latency_cache import record
from test_search import TINY, rank, score, total

from fbn_deploy.errors import NothingFitsError
from fbn_deploy.latency.meter import Confirmation
from fbn_deploy.pipeline.aim import MOST, aimed, stretches
from fbn_deploy.pipeline.search import _outcome
from fbn_deploy.progress import Silent
from fbn_deploy.search.budgets import Budget
from fbn_deploy.search.problem import Outcome
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


class Slow(Meter):
    """A machine whose worst round takes a tenth longer than its median."""

    def confirm_in_fresh_process(
        self, model: str, processes: int = 3, renewed: bool = True
    ) -> Confirmation:
        ms = self.careful_ms[model]
        made = record(value_ms=ms, worst_round_ms=1.1 * ms)
        return Confirmation((dataclasses.replace(made, slow_reference_us=None),))


@pytest.mark.parametrize(("median_ms", "stretch"), [(8.4, 1.1), (9.0, 1.1), (9.9, 1.21)])
def test_a_network_that_was_predicted_too_long_does_not_promise_more_than_care_allows(
    median_ms: float, stretch: float
) -> None:
    assert found(Slow({"b": median_ms}), BUDGET) == {BUDGET.cost: pytest.approx(stretch)}


def test_a_crowd_tells_nothing_and_its_record_stays() -> None:
    meter = Meter({"b": 14.0}, crowded="b")
    assert found(meter, BUDGET) == {BUDGET.cost: 1.0}
    assert meter.forgotten == []


class Uneven(Meter):
    """A machine on which one round was slow."""

    def confirm_in_fresh_process(
        self, model: str, processes: int = 3, renewed: bool = True
    ) -> Confirmation:
        timing: dict[str, Any] = {"worst_round_ms": 11.0, "disturbed": ("rounds varied by 8%",)}
        made = record(value_ms=self.careful_ms[model], **timing)
        return Confirmation((dataclasses.replace(made, slow_reference_us=None),))


def test_the_worst_round_of_a_disturbed_process_is_not_what_networks_take() -> None:
    assert found(Uneven({"b": 9.9}), BUDGET) == {BUDGET.cost: pytest.approx(1.1)}


def _coster(architecture: Architecture, budget: Budget) -> float:
    return 9.0 + total(architecture)


def outcome(budget: Budget, told: Told) -> tuple[Outcome, Mapping[str, float]]:
    """Of a search that aims at the budget over 1.25."""
    settings: Any = SimpleNamespace(budgets=(budget,), algorithm="random", candidates=4)
    context: Any = SimpleNamespace(reporter=told, seed=0)
    ranking: Any = SimpleNamespace(score=score, rank=rank)
    coster: Any = _coster
    return _outcome(context, settings, TINY, ranking, coster, {budget.cost: 1.25})


def test_where_nothing_is_as_far_below_the_budget_the_budget_itself_is_tried() -> None:
    told = Told()
    searched, stretch = outcome(dataclasses.replace(BUDGET, limit=9.5), told)
    (candidate,) = searched.population
    assert candidate.costs == {BUDGET.cost: 9.0}
    assert stretch == {BUDGET.cost: 1.0}
    assert told.texts == [
        "Nothing meets 7.6 ms on onnxruntime-cpu; looking for what meets the budget itself."
    ]
    with pytest.raises(NothingFitsError, match=r"meets 8 ms .* the fastest one found takes 9 ms"):
        outcome(dataclasses.replace(BUDGET, limit=8.0), told)


def test_candidates_are_held_against_the_budget_over_its_stretch() -> None:
    flops = Budget("flops", 10.0)
    assert aimed([BUDGET, flops], {BUDGET.cost: 1.2}) == (
        Budget("latency", 8.333, "onnxruntime-cpu"), flops,
    )  # fmt: skip
    assert aimed([BUDGET], {BUDGET.cost: 1.0}) == (BUDGET,)


def test_only_targets_that_are_here_are_measured_on() -> None:
    assert found(None, BUDGET) == {}
    assert found(Meter({}), Budget("flops", 10.0)) == {}
