"""A search in int8 (or 16 bits) ships the file in that precision, and only that file is judged."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from report_page import READY, changed, commands, page, verdict
from report_runs import (
    FLOPS,
    LATENCY,
    exported,
    profiled,
    quantized,
    searched,
    started,
    trained,
    whole,
    whole_in,
)

from fbn_deploy.errors import FBNError
from fbn_deploy.report.page import write_report

READY_LOWER = "Ready to ship if 89.00 % top-1 is enough"  # what ``quantized`` leaves of 90 %


@pytest.mark.parametrize("precision", ["int8", "fp16", "bf16"])
def test_a_search_in_a_precision_ships_the_file_in_it(tmp_path: Path, precision: str) -> None:
    run = whole_in(tmp_path, precision)
    found = verdict(run)
    assert found.headline == READY_LOWER
    assert [each.about for each in found.findings if each.state == "good"] == [
        f"latency budget on onnxruntime-cpu in {precision}",
        "accuracy",
        f"model.{precision}.onnx on onnxruntime-cpu",
        "latency of the file",
    ]
    text = page(run).text
    assert f"model.{precision}.onnx takes 0.8000 ms on onnxruntime-cpu" in text
    assert f"90.00 % top-1 on 200 test images, 89.00 % in {precision}; always" in text
    assert f"ships: verified in {precision}, 89.00 % top-1" in text
    assert "Not done yet: fbn" not in text


def test_a_confirmation_and_a_budget_in_int8_are_called_so_everywhere(tmp_path: Path) -> None:
    run = searched(started(tmp_path), budgets=(FLOPS, LATENCY), precision="int8")
    profiled(quantized(trained(run)), 0.8, "int8")
    text = page(run).text
    assert "Confirmed 1.500 ms in int8, at most 1.600 ms; the budget is 2 ms." in text
    assert "confirmed on onnxruntime-cpu in int8" in text
    assert "meet 2 ms on onnxruntime-cpu in int8." in text
    assert "meet 40M FLOPs." in text
    assert "Rank against latency in int8 on onnxruntime-cpu" in text
    assert "latency in int8, ms" in text
    assert "Latencies of candidates on onnxruntime-cpu in int8:" in text
    assert "activations in uint8" in text
    changed(run / "search.json", "best", "confirmed", to={})
    assert "Measured quickly in int8, 1.100 ms, and not confirmed" in page(run).text


def test_nothing_of_fp32_is_called_in_a_precision(tmp_path: Path) -> None:
    run = whole(tmp_path)
    before = page(run).text
    assert " in fp32" not in before
    assert "in int8" not in before
    changed(run / "search.json", "settings", "precision", to="fp32")
    assert verdict(run).headline == READY
    assert "Confirmed 1.500 ms, at most 1.600 ms" in page(run).text


def test_the_fp32_file_of_a_search_in_int8_is_not_bound_by_the_budget(tmp_path: Path) -> None:
    run = profiled(exported(whole_in(tmp_path)), value_ms=9.0)
    assert verdict(run).headline == READY_LOWER
    text = page(run).text
    assert "model.int8.onnx, trained and exported" in text
    assert "model.onnx, trained and exported" not in text
    assert "over the budget of 2 ms" not in text
    assert "verified; model.int8.onnx ships" in text
    profiled(run, 2.5, "int8")
    assert verdict(run).headline == "Do not ship this as it is: latency of the file"


def test_an_int8_file_beside_a_search_in_fp32_is_not_bound_by_the_budget(tmp_path: Path) -> None:
    run = profiled(quantized(whole(tmp_path)), 9.0, "int8")
    assert verdict(run).headline == READY
    text = page(run).text
    assert "model.onnx, trained and exported" in text
    assert "model.int8.onnx, trained and exported" not in text


def test_a_profile_of_another_precision_is_not_held_against_the_budget(tmp_path: Path) -> None:
    run = whole_in(tmp_path)
    changed(run / "profile.int8.json", "latency", "conditions", "precision", to="fp32")
    text = page(run).text
    assert "no budget was set for these conditions" in text
    assert "trained and exported" not in text


def test_a_confirmation_of_another_precision_than_the_search_is_refused(tmp_path: Path) -> None:
    run = whole_in(tmp_path)
    records = ("best", "confirmed", "onnxruntime-cpu", "records")
    changed(run / "search.json", *records, 0, "conditions", "precision", to="fp32")
    with pytest.raises(FBNError, match="onnxruntime-cpu is in fp32, and the search in int8"):
        write_report(run)


@pytest.mark.parametrize("lost", ["model.int8.onnx", "verify.int8.json"])
def test_without_its_int8_file_a_search_in_int8_is_not_finished(tmp_path: Path, lost: str) -> None:
    run = profiled(exported(whole_in(tmp_path)))
    (run / lost).unlink()
    found = verdict(run)
    assert found.headline == "Not finished: verification"
    assert f"Not exported yet: fbn export {run} --precision int8" in page(run).text


def test_without_a_profile_of_its_int8_file_a_search_in_int8_is_not_finished(
    tmp_path: Path,
) -> None:
    run = profiled(exported(whole_in(tmp_path)))
    (run / "profile.int8.json").unlink()
    assert verdict(run).headline == "Not finished: latency of the file"
    assert f"Not measured yet: fbn profile {run} --precision int8" in page(run).text


def test_what_is_not_done_after_a_search_in_int8_is_done_in_int8(tmp_path: Path) -> None:
    run = searched(started(tmp_path / "a run"), precision="int8")
    text = page(run).text
    place = shlex.quote(str(run))
    gives = "It gives model.int8.onnx and verify.int8.json"
    assert f"{gives}: fbn export {place} --precision int8" in text
    assert f"It gives profile.int8.json: fbn profile {place} --precision int8" in text
    assert "model.int8.onnx–not exported yet" in text
    assert "model.onnx" not in text


def test_an_engine_is_built_in_the_precision_of_a_search_for_it(tmp_path: Path) -> None:
    other = searched(started(tmp_path / "other"), precision="int8")
    assert f"model.tensorrt.engine: fbn export {other} --target tensorrt" in page(other).text
    budgets = ({**LATENCY, "target": "tensorrt"},)
    run = searched(started(tmp_path / "its"), budgets=budgets, confirmed=False, precision="int8")
    engine = f"model.int8.tensorrt.engine: fbn export {run} --precision int8 --target tensorrt"
    assert engine in page(run).text


def test_a_measurement_that_was_disturbed_is_made_again_in_int8(tmp_path: Path) -> None:
    run = profiled(whole_in(tmp_path), 2.5, "int8", disturbed=("waited for a core",))
    assert verdict(run).headline == "Look before you ship: latency of the file"
    assert f"fbn profile {run} --precision int8 measures it again" in page(run).text


def test_an_int8_file_that_names_always_one_class_speaks_against_shipping(tmp_path: Path) -> None:
    run = quantized(whole_in(tmp_path), drop=0.8)
    assert verdict(run).headline == "Do not ship this as it is: accuracy"


def test_an_fp32_file_that_failed_beside_what_ships_is_looked_at(tmp_path: Path) -> None:
    run = exported(whole_in(tmp_path), passed=False)
    assert verdict(run).headline == "Look before you ship: model.onnx on onnxruntime-cpu"


def test_an_int8_file_of_another_training_is_seen_by_its_accuracy(tmp_path: Path) -> None:
    run = whole_in(tmp_path)
    trained(run, accuracy=0.95)
    assert verdict(run).headline == "Look before you ship: model.int8.onnx"


def test_commands_do_a_search_in_int8_again_in_int8(tmp_path: Path) -> None:
    search, _, export, profile, _ = commands(whole_in(tmp_path))
    assert search.endswith("--precision int8")
    assert export.startswith("fbn export again --precision int8")
    assert "--target" not in export
    assert profile == "fbn profile again --precision int8"


def test_a_file_for_a_target_without_a_budget_is_made_again_for_that_target(
    tmp_path: Path,
) -> None:
    run = whole_in(tmp_path)
    changed(run / "verify.int8.json", "results", 0, "target", to="tensorrt")
    assert "--precision int8 --target tensorrt" in commands(run)[2]


def test_the_time_of_each_choice_is_that_in_the_file_that_ships(tmp_path: Path) -> None:
    run = profiled(exported(whole_in(tmp_path)), value_ms=9.0)
    text = page(run).text
    layers = text[text.rindex("Time by layer") :]
    assert layers.index("model.int8.onnx") < layers.index("model.onnx")
    (run / "profile.int8.json").unlink()
    assert "is not known without a profile" in page(run).text
