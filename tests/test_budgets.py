"""Budgets: what is read, what is refused, and what breaks them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbn_deploy.errors import FBNError
from fbn_deploy.search.budgets import (
    Budget,
    cheapest_first,
    flops_budget,
    latency_budget,
    on_targets,
    params_budget,
    violations,
)

LIMITS = st.floats(min_value=1e-12, max_value=1e18)
TARGETS = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True)
BUDGETS = st.one_of(
    st.builds(Budget, st.just("latency"), LIMITS, st.none() | TARGETS),
    st.builds(Budget, st.sampled_from(["flops", "params"]), LIMITS),
)


@pytest.mark.parametrize(
    ("text", "limit_ms", "target"),
    [
        ("10ms", 10.0, None),
        ("1.5 ms", 1.5, None),
        ("2s", 2000.0, None),
        ("800us", 0.8, None),
        ("openvino-cpu:5ms", 5.0, "openvino-cpu"),
        (" openvino-cpu : 5 ms ", 5.0, "openvino-cpu"),
    ],
)
def test_a_latency_is_read_in_milliseconds(text: str, limit_ms: float, target: str | None) -> None:
    assert latency_budget(text) == Budget("latency", limit_ms, target)


@pytest.mark.parametrize(
    ("text", "limit"), [("300M", 300e6), ("1.1M", 1_100_000.0), ("1.2G", 1.2e9), ("800 k", 800e3)]
)
def test_counts_are_read_with_their_suffix(text: str, limit: float) -> None:
    assert flops_budget(text) == Budget("flops", limit)
    assert params_budget(text) == Budget("params", limit)


NO_NUMBERS = ["", " ", "ms", "M", "nan", "inf", "nanms", "infM", "ten ms", "10 minutes", "None"]
BARE = ["10", "10.5", "300000000"]
NOT_POSITIVE = ["0ms", "0.0M", "-1ms", "-4M", "0s", "0.000k"]
ODD = ["1e3ms", "1e6M", "+5ms", "1,5ms", "1_000ms", ".5ms", "5.ms", "10MS", "300m", "10ms 20ms"]
UNICODE = ["١٠ms", "5µs", "1²M"]
TOO_LARGE = ["9" * 400 + "ms", "9" * 400 + "M"]
BAD_TARGETS = [":5ms", "openvino cpu:5ms", "a:b:5ms", "-:5ms", "openvino-cpu:", "openvino-cpu:5"]


@pytest.mark.parametrize("read", [latency_budget, flops_budget, params_budget])
@pytest.mark.parametrize(
    "text", [*NO_NUMBERS, *BARE, *NOT_POSITIVE, *ODD, *UNICODE, *TOO_LARGE, *BAD_TARGETS]
)
def test_anything_else_is_refused_with_the_accepted_forms(
    read: Callable[[str], Budget], text: str
) -> None:
    accepted = "1.5 ms, 800us or 2s" if read is latency_budget else "M, "
    with pytest.raises(FBNError) as error:
        read(text)
    assert repr(text) in str(error.value)
    assert accepted in str(error.value)


def test_a_unit_of_another_kind_is_refused() -> None:
    with pytest.raises(FBNError, match="latency budget '300M'"):
        latency_budget("300M")
    with pytest.raises(FBNError, match="FLOPs budget '10ms'"):
        flops_budget("10ms")


@pytest.mark.parametrize("read", [latency_budget, flops_budget, params_budget])
@given(text=st.text())
def test_any_text_is_a_budget_or_one_clear_mistake(
    read: Callable[[str], Budget], text: str
) -> None:
    with contextlib.suppress(FBNError):
        assert read(text).limit > 0


@given(BUDGETS)
def test_what_a_budget_says_is_read_back_exactly(budget: Budget) -> None:
    amount = budget.text.partition(" on ")[0]
    if budget.kind == "latency":
        said = f"{budget.target}:{amount}" if budget.target else amount
        assert latency_budget(said) == budget
    else:
        read = flops_budget if budget.kind == "flops" else params_budget
        assert read(amount.removesuffix(f" {budget.unit}")) == budget


@given(BUDGETS)
def test_a_budget_survives_json(budget: Budget) -> None:
    data = json.loads(json.dumps(budget.to_json()))
    assert set(data) == {"kind", "limit", "unit", "target"}
    assert Budget.from_json(data) == budget


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "energy"},
        {"kind": ["latency"]},
        {"limit": 0},
        {"limit": True},
        {"limit": "10"},
        {"limit": float("nan")},
        {"limit": 10**400},
        {"unit": "s"},
        {"target": 3},
        {"surplus": 1},
        {"kind": "flops", "unit": "FLOPs"},
    ],
)
def test_a_damaged_budget_in_json_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FBNError):
        Budget.from_json({**latency_budget("openvino-cpu:5ms").to_json(), **change})


@pytest.mark.parametrize("data", [None, [], "10ms", {}, {"kind": "latency", "limit": 1}])
def test_json_that_is_no_budget_is_refused(data: object) -> None:
    with pytest.raises(FBNError, match="kind, limit, unit and target"):
        Budget.from_json(data)


def test_budgets_are_said_with_unit_and_target() -> None:
    assert Budget("latency", 10, "openvino-cpu").text == "10 ms on openvino-cpu"
    assert Budget("latency", 0.0125).text == "0.0125 ms"
    assert Budget("flops", 300e6).text == "300M FLOPs"
    assert Budget("params", 4.2e6).text == "4.2M parameters"
    assert Budget("params", 12).text == "0.012k parameters"


def test_a_cost_is_said_to_four_digits() -> None:
    assert Budget("latency", 10, "openvino-cpu").text_of(3.20049) == "3.2 ms on openvino-cpu"
    assert Budget("latency", 10, "openvino-cpu").amount_of(10.021) == "10.02 ms"
    assert Budget("flops", 300e6).text_of(412_345_678) == "412.3M FLOPs"


def test_rounding_never_hides_a_broken_budget() -> None:
    assert Budget("latency", 10).text_of(10.0004) == "10.0004 ms"
    assert Budget("latency", 1.193).text_of(1.1933400000998517) == "1.1933 ms"
    assert Budget("latency", 10).text_of(9.9996) == "10 ms"


def test_a_cost_equal_to_its_limit_meets_the_budget() -> None:
    assert Budget("flops", 300e6).is_met_by(300e6)
    assert not Budget("flops", 300e6).is_met_by(300e6 + 1)


def test_the_violated_budgets_are_named() -> None:
    openvino, flops = latency_budget("openvino-cpu:5ms"), flops_budget("300M")
    costs = {"latency_ms:openvino-cpu": 5.1, "flops": 2e8, "params": 9e9}
    assert violations([openvino, flops], costs) == (openvino,)
    assert violations([], costs) == ()


def test_an_unknown_cost_never_counts_as_met() -> None:
    with pytest.raises(KeyError):
        violations([latency_budget("openvino-cpu:5ms")], {"latency_ms:onnxruntime-cpu": 1.0})


def test_budgets_without_a_target_get_the_default_one() -> None:
    budgets = on_targets(
        [latency_budget("10ms"), latency_budget("openvino-cpu:5ms"), params_budget("4M")],
        "onnxruntime-cpu",
    )
    assert [budget.cost for budget in budgets] == [
        "params",
        "latency_ms:onnxruntime-cpu",
        "latency_ms:openvino-cpu",
    ]


def test_two_budgets_for_one_cost_are_refused_together() -> None:
    asked = [
        latency_budget("10ms"),
        latency_budget("onnxruntime-cpu:5ms"),
        flops_budget("1M"),
        flops_budget("2M"),
    ]
    with pytest.raises(FBNError) as error:
        on_targets(asked, "onnxruntime-cpu")
    assert "10 ms on onnxruntime-cpu and 5 ms on onnxruntime-cpu" in str(error.value)
    assert "1M FLOPs and 2M FLOPs" in str(error.value)


@given(st.permutations(["10ms", "x:5ms"]))
def test_counts_are_checked_before_latencies(latencies: list[str]) -> None:
    asked = [*map(latency_budget, latencies), params_budget("1M"), flops_budget("1M")]
    assert [b.kind for b in cheapest_first(asked)] == ["flops", "params", "latency", "latency"]
