"""How the files of a run are written, under which names, and what verifies them."""

from __future__ import annotations

from typing import Any

import pytest

from fbn_deploy.errors import FBNError
from fbn_deploy.export.precision.as_written import AsWritten
from fbn_deploy.pipeline.forms import precision_file, run_form
from fbn_deploy.report.sections.reproduce import _AS_WRITTEN
from fbn_deploy.targets import targets, unsigned_activations
from fbn_deploy.targets.openvino_cpu import OpenVinoCpu

FOUND: dict[str, Any] = {"budgets": [{"target": None}], "settings": {}}


def test_the_report_knows_what_is_no_target() -> None:
    """It reads runs without the packages that compute them, so it has the name of its own."""
    assert AsWritten.name == _AS_WRITTEN


def test_activations_are_uint8_where_a_target_runs_that_fastest_and_none_refuses_it() -> None:
    assert unsigned_activations(["onnxruntime-cpu"])
    assert unsigned_activations(["openvino-cpu", "onnxruntime-cpu"])
    assert unsigned_activations(["openvino-cpu"])
    assert not unsigned_activations(["onnxruntime-cpu", "tensorrt"])
    assert not unsigned_activations([])


def test_a_precision_that_no_target_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FBNError, match="'onnxruntime-cpu' does not run bf16; it runs fp32"):
        precision_file(FOUND, "bf16", "onnxruntime-cpu")
    monkeypatch.setattr(OpenVinoCpu, "missing", lambda self: "OpenVINO is not installed.")
    if all(target.missing() for target in targets() if "bf16" in target.precisions):
        with pytest.raises(FBNError, match="openvino-cpu: OpenVINO is not installed"):
            precision_file(FOUND, "bf16")


def test_a_file_is_written_for_the_budgets_targets_though_they_are_not_here() -> None:
    here = ["onnxruntime-cpu"]
    of_tensorrt = {**FOUND, "budgets": [{"target": "tensorrt"}, {"target": None}]}
    assert not run_form(of_tensorrt, "int8", here).unsigned
    assert run_form(FOUND, "int8", here).unsigned


def test_a_file_for_a_table_is_written_as_the_graphs_of_its_bundle() -> None:
    """OpenVINO runs Mul and Add fastest; what was measured on the device were convolutions."""
    told = {"budgets": [{"target": "openvino-cpu"}], "settings": {"latency_tables": ["pi.json"]}}
    for precision in ("fp32", "fp16", "bf16", "int8"):
        assert run_form(told, precision).as_convolution
    assert not run_form({**told, "settings": {}}, "fp32").as_convolution


def test_a_target_that_holds_int8_otherwise_gets_a_file_beside_that_of_the_budgets() -> None:
    of_budget = {**FOUND, "budgets": [{"target": "onnxruntime-cpu"}]}
    own = precision_file(of_budget, "int8")
    assert (own.name, own.form.unsigned) == ("int8", True)
    other = precision_file(of_budget, "int8", "tensorrt-rtx", build_only=True)
    assert (other.name, other.form.unsigned) == ("int8-signed", False)
    assert ([judge.name for judge in other.judges], list(other.timed)) == (["as written"], [])
    same = precision_file(of_budget, "int8", "onnxruntime-cpu")
    assert (same.name, same.form) == ("int8", own.form)
    for_rtx = {**FOUND, "budgets": [{"target": "tensorrt-rtx"}]}
    budgeted = precision_file(for_rtx, "int8", "tensorrt-rtx", build_only=True)
    assert (budgeted.name, budgeted.form.unsigned) == ("int8", False)
    there = precision_file(for_rtx, "int8", "onnxruntime-cpu")
    assert (there.name, there.form.unsigned) == ("int8-unsigned", True)


def test_in_16_bits_a_file_is_judged_as_written_beside_targets_that_compute_in_32() -> None:
    file = precision_file(FOUND, "fp16", "onnxruntime-cpu")
    assert [judge.name for judge in file.judges] == ["onnxruntime-cpu", "as written"]
    assert [target.name for target in file.timed] == ["onnxruntime-cpu"]
    built = precision_file(FOUND, "bf16", "tensorrt-rtx", build_only=True)
    assert [judge.name for judge in built.judges] == ["as written"]
