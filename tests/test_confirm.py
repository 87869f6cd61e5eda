"""Who wins: nothing on the strength of a prediction alone where the target is here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from test_latency_cache import record

from fbn_deploy.errors import NothingFitsError
from fbn_deploy.latency.composition import Composition
from fbn_deploy.latency.crowding import Pace
from fbn_deploy.latency.machine import arithmetic_work
from fbn_deploy.latency.meter import Confirmation
from fbn_deploy.latency.predictor import Prediction
from fbn_deploy.latency.record import LatencyRecord, utc_now
from fbn_deploy.pipeline.confirm import confirmed_winner
from fbn_deploy.pipeline.latency import UNKNOWN_MS, Predicted, Whole
from fbn_deploy.progress import Reporter, Silent
from fbn_deploy.search.budgets import Budget
from fbn_deploy.search.candidates import Candidate, Population
from fbn_deploy.space import Architecture


class Told(Silent):
    """A reporter that keeps what it says."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


BUDGET = Budget("latency", 10.0, "onnxruntime-cpu")


class Meter:
    """A meter whose careful measurement of a "model" (its name) is known beforehand."""

    def __init__(
        self, careful_ms: Mapping[str, float], crowded: str = "", disturbed: str = ""
    ) -> None:
        self.careful_ms, self.crowded, self.disturbed = careful_ms, crowded, disturbed
        self.date = ""
        """Of what the cache had; what is measured now where it is empty."""
        self.asked: list[str] = []
        self.forgotten: list[float] = []

    def confirm_in_fresh_process(
        self, model: str, processes: int = 3, renewed: bool = True
    ) -> Confirmation:
        self.asked.append(model)
        timing: dict[str, Any] = dict.fromkeys(
            ("worst_round_ms", "high_ms"), self.careful_ms[model]
        )
        timing |= {
            "crowded_out": model in self.crowded,
            "disturbed": ("load",) * (model in self.disturbed),
        }
        made = record(value_ms=self.careful_ms[model], **timing)
        made = dataclasses.replace(made, slow_reference_us=None, date=self.date or utc_now())
        return Confirmation((made,) * processes)

    def forget(self, confirmation: Confirmation) -> None:
        self.forgotten.append(confirmation.value_ms)


class Passing(Meter):
    """A meter whose first measurement is in a crowd that ends; ``calm_ms`` is what the same
    network takes then."""

    def __init__(self, careful_ms: Mapping[str, float], calm_ms: Mapping[str, float]) -> None:
        super().__init__(careful_ms, crowded="".join(calm_ms))
        self.calm_ms = calm_ms

    def confirm_in_fresh_process(
        self, model: str, processes: int = 3, renewed: bool = True
    ) -> Confirmation:
        found = super().confirm_in_fresh_process(model, processes, renewed)
        self.careful_ms, self.crowded = {**self.careful_ms, **self.calm_ms}, ""
        return found


class Fake:
    """A target's latencies: predicted ± 1 ms, and measured quickly, some in a crowd; ``meter`` is
    None for one elsewhere."""

    def __init__(
        self,
        predicted: Mapping[str, float],
        quick_ms: Mapping[str, float],
        meter: Meter | None,
        crowded: str = "",
    ) -> None:
        self.predicted, self.quick_ms, self.meter = predicted, quick_ms, meter
        self.crowded = crowded
        self.asked: list[str] = []

    def prediction(self, architecture: Architecture) -> Prediction:
        value = self.predicted[architecture["name"]]
        return Prediction(value, value - 1.0, value + 1.0)

    def measured(self, architecture: Architecture) -> LatencyRecord:
        name = architecture["name"]
        self.asked.append(name)
        return record(value_ms=self.quick_ms[name], crowded_out=name in self.crowded)


def population(names: str, costs_ms: Mapping[str, float]) -> Population:
    """Candidates, best first, and what a search held against ``BUDGET``."""

    def rank(candidates: Sequence[Candidate]) -> list[float]:
        return [each.scores["place"] for each in candidates]

    return Population(
        rank,
        tuple(
            Candidate(
                Architecture.of({"name": name}),
                name,
                {"place": float(place)},
                {BUDGET.cost: costs_ms.get(name, 0.0)},
            )
            for place, name in enumerate(names)
        ),
    )


def won(
    names: str, latencies: Mapping[str, Any], *budgets: Budget, reporter: Reporter | None = None
) -> tuple[str, set[str]]:
    target = latencies.get("onnxruntime-cpu")
    candidates = population(names, target.predicted if target else {})
    winner, confirmations = confirmed_winner(
        candidates, budgets or (BUDGET,), latencies, lambda a: a["name"], reporter or Silent()
    )
    return winner.canonical, set(confirmations)


def test_a_candidate_that_touches_the_budget_is_measured_whole_before_it_can_win() -> None:
    """Both are predicted below it by less than the error: a is above it when measured, b below."""
    meter = Meter({"b": 9.6})
    latency = Fake({"a": 9.5, "b": 9.9}, {"a": 10.4, "b": 9.6}, meter)
    assert won("ab", {"onnxruntime-cpu": latency}) == ("b", {"onnxruntime-cpu"})
    assert latency.asked == ["a", "b"]
    assert meter.asked == ["b", "b"]  # one process, then all three


def test_what_is_predicted_above_the_budget_is_not_looked_for_though_its_interval_touches_it() -> (
    None
):
    table: Any = SimpleNamespace(
        predictor=lambda: lambda composition: Prediction(10.5, 9.5, 11.5),
        inventory=SimpleNamespace(blocks={"block": None}),
    )
    space: Any = SimpleNamespace(canonical=lambda architecture: architecture["name"])
    latency = Predicted(table, space, lambda architecture: Composition({"block": 1}), None)
    cost_ms = latency.cost_ms(Architecture.of({"name": "a"}))
    assert not BUDGET.is_met_by(cost_ms)


def test_a_prediction_below_zero_is_none() -> None:
    """Elsewhere such a network meets no budget; here it would be measured."""
    table: Any = SimpleNamespace(
        predictor=lambda: lambda composition: Prediction(-0.1, -0.3, 0.1),
        inventory=SimpleNamespace(blocks={"block": None}),
    )
    space: Any = SimpleNamespace(canonical=lambda architecture: architecture["name"])
    latency = Predicted(table, space, lambda architecture: Composition({"block": 1}), None)
    architecture = Architecture.of({"name": "a"})
    assert latency.prediction(architecture) is None
    assert latency.cost_ms(architecture) == UNKNOWN_MS


def test_a_candidate_far_below_the_budget_is_measured_as_well() -> None:
    meter = Meter({"a": 11.0, "b": 5.0})
    latency = Fake({"a": 3.0, "b": 3.0}, {"a": 3.1, "b": 3.1}, meter)
    assert won("ab", {"onnxruntime-cpu": latency})[0] == "b"


def test_budgets_on_two_targets_hold_on_each() -> None:
    here = Fake({"a": 9.0, "b": 9.0}, {"a": 9.0, "b": 9.0}, Meter({"a": 9.0, "b": 9.0}))
    there = Fake({"a": 4.0, "b": 4.0}, {"a": 5.5, "b": 4.0}, Meter({"b": 4.5}))
    budgets = (BUDGET, Budget("latency", 5.0, "openvino-cpu"))
    latencies = {"onnxruntime-cpu": here, "openvino-cpu": there}
    assert won("ab", latencies, *budgets) == ("b", {"onnxruntime-cpu", "openvino-cpu"})


def test_on_a_target_elsewhere_what_touches_the_budget_cannot_win() -> None:
    latency = Fake({"a": 9.5, "b": 8.5}, {}, None)
    assert won("ab", {"onnxruntime-cpu": latency}) == ("b", set())
    assert latency.asked == []


def test_on_a_target_elsewhere_nothing_is_said_to_be_measured() -> None:
    with pytest.raises(NothingFitsError, match=r"is predicted to meet .* ends at 10\.5 ms"):
        won("a", {"onnxruntime-cpu": Fake({"a": 9.5}, {}, None)})


def test_when_none_holds_the_nearest_is_named() -> None:
    latency = Fake({"a": 9.5, "b": 9.0}, {"a": 12.0, "b": 10.5}, Meter({}))
    with pytest.raises(NothingFitsError, match=r"nearest took 10\.5 ms on onnxruntime-cpu"):
        won("ab", {"onnxruntime-cpu": latency})


def test_a_search_that_a_crowd_spoiled_says_so_and_measures_again_the_next_time() -> None:
    """Each costs less than the last, and takes too long in a crowd: five are enough to see."""
    names = "abcdefg"
    costs = {name: 9.0 / 2**place for place, name in enumerate(names)}
    meter = Meter({name: 11.0 + place for place, name in enumerate(names)}, crowded="bcdefg")
    latency = Fake(costs, costs, meter)
    with pytest.raises(NothingFitsError, match=r"During 5 of these .* again on a quieter machine"):
        won(names, {"onnxruntime-cpu": latency})
    assert meter.asked == list("abcdef")
    assert meter.forgotten == [12.0, 13.0, 14.0, 15.0, 16.0]


def test_what_failed_in_a_crowd_is_not_remembered_for_it_when_another_wins() -> None:
    costs = {"a": 9.0, "b": 7.0, "c": 7.0}
    meter = Meter({"a": 12.0, "b": 11.0, "c": 9.0}, crowded="a")
    meter.date = "2026-01-01T00:00:00+00:00"  # so that the crowd is not over
    assert won("abc", {"onnxruntime-cpu": Fake(costs, costs, meter)})[0] == "c"
    assert meter.forgotten == [12.0]  # b failed without a crowd


def test_what_a_crowd_would_make_too_slow_is_passed_over() -> None:
    """a takes 1.3 times its cost in a crowd: b and d would break the budget, c and e would not."""
    costs = {"a": 9.0, "b": 8.0, "c": 7.5, "d": 9.9, "e": 7.0}
    meter = Meter({"a": 11.7, "c": 10.1, "e": 9.5}, crowded="ace")
    told = Told()
    latency = Fake(costs, costs, meter)
    assert won("abcde", {"onnxruntime-cpu": latency}, reporter=told)[0] == "e"
    assert meter.asked == ["a", "c", "e", "e"]
    assert meter.forgotten == [11.7, 10.1]
    assert "1.35 times" in told.texts[-1]
    assert "4 better candidates failed or were passed over" in told.texts[-1]


@pytest.mark.parametrize(
    ("a_ms", "b_ms", "winner", "asked"),
    [
        (9.5, 8.5, "a", "accaa"),
        (10.5, 8.5, "b", "accabb"),
        (10.5, 10.5, "c", "accab"),
    ],
)
def test_what_a_crowd_held_up_gets_its_turn_when_that_is_over(
    a_ms: float, b_ms: float, winner: str, asked: str
) -> None:
    """a takes 1.3 times its cost in a crowd, by which b would break the budget; c is calm."""
    costs = {"a": 9.0, "b": 8.0, "c": 7.0}
    meter = Passing({"a": 11.7, "b": b_ms, "c": 7.1}, {"a": a_ms})
    told = Told()
    latency = Fake(costs, costs, meter)
    assert won("abc", {"onnxruntime-cpu": latency}, reporter=told)[0] == winner
    assert meter.asked == list(asked)
    assert told.texts == []


def test_what_the_cache_has_does_not_tell_that_a_crowd_is_over() -> None:
    costs = {"a": 9.0, "b": 8.0, "c": 7.0}
    meter = Meter({"a": 11.7, "c": 7.1}, crowded="a")
    meter.date = "2026-01-01T00:00:00+00:00"
    told = Told()
    assert won("abc", {"onnxruntime-cpu": Fake(costs, costs, meter)}, reporter=told)[0] == "c"
    assert "2 better candidates failed or were passed over" in told.texts[-1]


def test_a_disturbed_measurement_that_breaks_the_budget_is_not_remembered() -> None:
    """A slow round of a quiet network would refuse it for good."""
    meter = Meter({"a": 10.4, "b": 10.2, "c": 9.0}, disturbed="a")
    costs = dict.fromkeys("abc", 9.0)
    assert won("abc", {"onnxruntime-cpu": Fake(costs, costs, meter)})[0] == "c"
    assert meter.forgotten == [10.4]


def test_a_search_gives_up_before_it_has_measured_every_candidate_in_vain() -> None:
    names = [chr(ord("a") + number) for number in range(120)]
    latency = Fake(dict.fromkeys(names, 9.0), dict.fromkeys(names, 10.5), Meter({}))
    with pytest.raises(NothingFitsError, match="None of the 100 candidates that were measured"):
        won("".join(names), {"onnxruntime-cpu": latency})


def test_when_the_others_would_take_too_long_in_the_crowd_as_well_that_is_said() -> None:
    """Five are tried all the same, lest the crowd be over."""
    names = "abcdefg"
    costs = dict.fromkeys(names, 9.0)
    meter = Meter({name: 13.5 + place for place, name in enumerate(names)}, crowded=names)
    latency = Fake(costs, costs, meter)
    with pytest.raises(NothingFitsError, match=r"nearest took 13\.5 .* and 2 more would have"):
        won(names, {"onnxruntime-cpu": latency})
    assert meter.asked == list("abcde")


def test_one_that_would_take_too_long_in_the_crowd_is_tried_rather_than_none() -> None:
    costs = {"a": 9.0, "b": 8.0}
    meter = Meter({"a": 13.5, "b": 8.2}, crowded="a")
    meter.date = "2026-01-01T00:00:00+00:00"
    assert won("ab", {"onnxruntime-cpu": Fake(costs, costs, meter)})[0] == "b"


def test_predictions_elsewhere_are_asked_first_and_count_for_nothing_measured() -> None:
    there = "openvino-cpu"
    names = [chr(ord("A") + number) for number in range(200)]
    last = names[-1]
    here = Meter({last: 9.0})
    latencies = {
        "onnxruntime-cpu": Fake(dict.fromkeys(names, 9.0), dict.fromkeys(names, 9.0), here),
        there: Fake({name: 2.0 if name == last else 9.0 for name in names}, {}, None),
    }
    budgets = (BUDGET, Budget("latency", 5.0, there))
    assert won("".join(names), latencies, *budgets)[0] == last
    assert here.asked == [last, last]


def test_a_quick_measurement_in_a_crowd_throws_nobody_out() -> None:
    meter = Meter({"a": 9.5})
    latency = Fake({"a": 9.0}, {"a": 12.0}, meter, crowded="a")
    assert won("a", {"onnxruntime-cpu": latency})[0] == "a"


def test_where_no_latency_is_budgeted_the_best_wins() -> None:
    assert won("ab", {}, Budget("flops", 1e6)) == ("a", set())


def test_what_a_calmer_moment_tells_to_be_of_a_crowd_is_measured_again_once() -> None:
    """The first network of a search, on a core that nobody knows yet."""
    told = [
        dataclasses.replace(record(value_ms=ms, known_kappa=kappa), arithmetic=arithmetic_work())
        for ms, kappa in ((1.5, 2.25), (1.0, 1.5))
    ]
    meter: Any = SimpleNamespace(
        target=SimpleNamespace(name="onnxruntime-cpu"),
        pace=Pace(90.0, 40.0),
        measure=lambda model: told.pop(0),
        settled=lambda model, made: made,
    )
    space: Any = SimpleNamespace(canonical=lambda architecture: architecture["name"])
    whole = Whole(meter, space, lambda architecture: architecture["name"])
    architecture = Architecture.of({"name": "a"})
    assert [whole.cost_ms(architecture), whole.cost_ms(architecture)] == [1.5, 1.5]
    meter.pace = Pace(60.0, 40.0)
    assert [whole.cost_ms(architecture), whole.cost_ms(architecture)] == [1.0, 1.0]
    assert whole.doubt == ""
    assert whole.about() == {"predictor": "whole", "networks": 1, "crowded": 0}
    told.append(record(value_ms=1.4, crowded_out=True))
    assert whole.cost_ms(Architecture.of({"name": "b"})) == 1.4
    assert "1 of 2 networks were measured on onnxruntime-cpu while" in whole.doubt
