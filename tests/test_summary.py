"""What is said of a result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from test_latency_cache import record

from fbn_deploy import summary

MODEL = Path("run/model.onnx")
CONDITIONS = record().conditions
TARGET = CONDITIONS.target
SEARCH: dict[str, Any] = {
    "budgets": [{"target": None, "limit": 1e6}, {"target": TARGET, "limit": 4.0}],
    "settings": {"threads": 1, "batch": 1},
    "best": {"confirmed": {}},
    "latency": {TARGET: {"predictor": "whole"}},
}
OVER = "Latency of run/model.onnx: 9.000 ms, over the budget of 4 ms"


def test_a_latency_is_said_with_what_disturbed_its_measurement() -> None:
    calm = record(value_ms=1.25)
    assert summary.latency(calm, MODEL, SEARCH) == "Latency of run/model.onnx: 1.250 ms"
    crowded = record(value_ms=5.0, disturbed=("rounds varied by 5%", "the core was shared"))
    assert summary.latency(crowded, MODEL, SEARCH) == (
        "Latency of run/model.onnx: 5.000 ms, over the budget of 4 ms, disturbed: rounds varied by "
        "5%; the core was shared. fbn profile run/model.onnx measures it again."
    )


def of(device: str) -> dict[str, Any]:
    return {"conditions": {"device": device}}


def test_a_latency_is_held_against_a_budget_of_its_own_device_only() -> None:
    """A latency table of a Pi names the target of this workstation."""
    slow = record(value_ms=9.0)
    here, elsewhere = of(CONDITIONS.device), of("a Pi")
    for about, confirmed, over in (
        (here, {}, True),
        (elsewhere, {}, False),
        ({"predictor": "whole"}, {TARGET: {"records": [here]}}, True),
        ({"predictor": "whole"}, {TARGET: {"records": [elsewhere]}}, False),
    ):
        found = {**SEARCH, "latency": {TARGET: about}, "best": {"confirmed": confirmed}}
        assert (summary.latency(slow, MODEL, found) == OVER) is over


def test_a_latency_of_other_conditions_is_not_held_against_the_budget() -> None:
    assert summary.latency(record(value_ms=9.0), MODEL, SEARCH) == OVER
    for other in ({"threads": 2}, {"batch": 8}, {"precision": "int8"}):
        slow = record(dataclasses.replace(CONDITIONS, **other), value_ms=9.0)
        assert "budget" not in summary.latency(slow, MODEL, SEARCH)
