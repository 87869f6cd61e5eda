"""What speaks for shipping a network, and what against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_page import READY, changed, page, verdict
from report_runs import (
    CHAIN,
    built,
    exported,
    profiled,
    quantized,
    searched,
    started,
    trained,
    whole,
)


def test_a_quick_measurement_is_not_called_confirmed_either(tmp_path: Path) -> None:
    run = searched(started(tmp_path))
    changed(run / "search.json", "best", "confirmed", to={})
    assert "Measured quickly, 1.100 ms, and not confirmed" in page(run).text


def test_a_run_that_holds_everywhere_is_ready_to_ship(tmp_path: Path) -> None:
    found = verdict(whole(tmp_path))
    assert found.headline == READY
    assert {each.state for each in found.findings} == {"good"}


@pytest.mark.parametrize(
    ("disturbed", "upper_ms", "headline"),
    [
        ((), 1.9, READY),
        (("somebody computed",), 1.9, "Look before you ship: latency budget on onnxruntime-cpu"),
        ((), 2.1, "Do not ship this as it is: latency budget on onnxruntime-cpu"),
    ],
)
def test_a_budget_is_held_against_the_upper_bound_and_a_disturbance_is_said(
    tmp_path: Path, disturbed: tuple[str, ...], upper_ms: float, headline: str
) -> None:
    run = searched(started(tmp_path), upper_ms=upper_ms, disturbed=disturbed)
    assert verdict(profiled(exported(trained(run)))).headline == headline


def test_a_file_that_is_slower_than_its_budget_speaks_against_shipping(tmp_path: Path) -> None:
    run = whole(tmp_path)
    profiled(run, value_ms=2.5)
    assert verdict(run).headline == "Do not ship this as it is: latency of the file"
    profiled(run, value_ms=2.5, disturbed=("waited for a core",))
    assert verdict(run).headline == "Look before you ship: latency of the file"
    assert "over the budget of 2 ms" in page(run).text


def test_a_prediction_is_not_called_confirmed(tmp_path: Path) -> None:
    run = searched(
        started(tmp_path),
        confirmed=False,
        latency={
            "onnxruntime-cpu": {
                "predictor": "table",
                "blocks": 40,
                "probes": 12,
                "quality": {"probes": 12, "mape": 0.02, "worst": 0.05, "spearman": 0.99,
                            "coverage": 0.95, "width": 0.04, "sum_mape": 0.3},
                "networks_with_unknown_blocks": 2,
                "conditions": {"device": "a board", "versions": {"onnxruntime": "1.2"}},
            }
        },
    )  # fmt: skip
    found = page(profiled(exported(trained(run))))
    assert "predicted for onnxruntime-cpu" in found.text
    assert "not measured there; the budget is 2 ms" in found.text
    assert "Measured on a board, onnxruntime 1.2." in found.text
    command = (
        "fbn profile model.onnx --target onnxruntime-cpu --out profile.json on the device, and put "
        "that file into"
    )
    assert command in found.text
    assert verdict(run).headline == "Look before you ship: latency budget on onnxruntime-cpu"


@pytest.mark.parametrize(
    ("value_ms", "disturbed", "state"),
    [(1.9, [], "good"), (2.1, [], "bad"), (1.9, ["the device was hot"], "look")],
)
def test_a_profile_of_the_budgets_own_device_says_whether_it_holds(
    tmp_path: Path, value_ms: float, disturbed: list[str], state: str
) -> None:
    board = {"predictor": "table", "conditions": {"device": "a board"}}
    run = searched(started(tmp_path), confirmed=False, latency={"onnxruntime-cpu": board})
    profiled(exported(trained(run)), value_ms=value_ms)
    changed(run / "profile.json", "latency", "conditions", "device", to="a board")
    changed(run / "profile.json", "latency", "disturbed", to=disturbed)
    (found,) = [each for each in verdict(run).findings if "latency budget" in each.about]
    assert found.state == state
    assert f"takes {value_ms:.3f} ms on a board, by its profile" in found.text.replace("\xa0", " ")


def test_a_budget_of_another_device_is_not_held_against_this_one(tmp_path: Path) -> None:
    board = {"predictor": "table", "conditions": {"device": "a board"}}
    run = searched(started(tmp_path), confirmed=False, latency={"onnxruntime-cpu": board})
    profiled(exported(trained(run)), value_ms=9.0)
    text = page(run).text
    assert "no budget was set for these conditions (device, threads, batch)" in text
    assert "trained and exported" not in text
    assert verdict(run).state == "look"


def test_a_file_of_another_training_is_seen_by_its_accuracy(tmp_path: Path) -> None:
    run = whole(tmp_path)
    trained(run, accuracy=0.95)
    assert verdict(run).headline == "Look before you ship: model.onnx"


def test_another_network_than_was_chosen_speaks_against_shipping(tmp_path: Path) -> None:
    run = whole(tmp_path)
    trained(run, {**CHAIN, "stage1.0": "mb6_k7"})
    assert verdict(run).headline == "Do not ship this as it is: trained network"


def test_no_better_than_always_the_same_class_speaks_against_shipping(tmp_path: Path) -> None:
    run = whole(tmp_path)
    exported(trained(run, accuracy=0.1), accuracy=0.1, trained_accuracy=0.1)
    assert verdict(run).headline == "Do not ship this as it is: accuracy"


def test_a_verification_that_failed_speaks_against_shipping(tmp_path: Path) -> None:
    run = exported(whole(tmp_path), passed=False)
    assert verdict(run).headline == "Do not ship this as it is: model.onnx on onnxruntime-cpu"


def test_another_precision_is_told_beside_fp32(tmp_path: Path) -> None:
    run = profiled(quantized(whole(tmp_path)), 0.8, "int8")
    text = page(run).text
    assert "−1.00 points of accuracy, 1.88 times as fast as fp32 on onnxruntime-cpu." in text
    assert "calibrated by mse on 500 images" in text
    assert "left in fp32: stem.conv/Conv" in text
    assert verdict(run).headline == READY
    quantized(run, latency_ms=3.0)
    assert "2.00 times as slow as fp32 on onnxruntime-cpu" in page(run).text


def test_an_engine_is_told_with_its_story(tmp_path: Path) -> None:
    run = built(whole(tmp_path), verified=True)
    text = page(run).text
    assert "gpu A GPU, compute_capability 8, 6" in text
    assert "The builder warned: a warning" in text
    assert verdict(run).headline == READY


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verification": None, "device": None}, "never run"),
        ({"onnx_sha256": "another"}, "Built from another model.onnx than lies here"),
    ],
)
def test_an_engine_that_was_not_run_or_is_of_another_model_is_looked_at(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    run = built(whole(tmp_path), verified=True, **changes)
    assert said in page(run).text
    assert verdict(run).headline == "Look before you ship: model.tensorrt.engine"
