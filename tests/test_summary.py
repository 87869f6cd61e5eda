"""What is said of a result."""

from __future__ import annotations

from pathlib import Path

from test_latency_cache import record

from fbn_deploy import summary

MODEL = Path("run/model.onnx")
TARGET = record().conditions.target
SEARCH = {"budgets": [{"target": None, "limit": 1e6}, {"target": TARGET, "limit": 4.0}]}


def test_a_latency_is_said_with_what_disturbed_its_measurement() -> None:
    calm = record(value_ms=1.25)
    assert summary.latency(calm, MODEL, SEARCH) == "Latency of run/model.onnx: 1.250 ms"
    crowded = record(value_ms=5.0, disturbed=("rounds varied by 5%", "the core was shared"))
    assert summary.latency(crowded, MODEL, SEARCH) == (
        "Latency of run/model.onnx: 5.000 ms, over the budget of 4 ms, disturbed: rounds varied by "
        "5%; the core was shared. fbn profile run/model.onnx measures it again."
    )
