"""A search measures candidates in the precision in which the winner will be deployed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from test_pipeline import QUICK, TINY, measuring
from test_precision import images, network, ranges_of, run

from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import candidate_graphs
from fbn_deploy.export.precision import quantized_int8, typed_bf16, typed_fp16
from fbn_deploy.export.precision.form import Form
from fbn_deploy.latency.cache import FILE, LatencyCache
from fbn_deploy.latency.network import network_from
from fbn_deploy.pipeline.parts import parts_of
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.progress import Silent
from fbn_deploy.search.budgets import Budget
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet
from fbn_deploy.targets import Target, default_target, targets
from fbn_deploy.targets.openvino_cpu import OpenVinoCpu


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_a_candidate_in_16_bits_has_the_structure_of_the_file_that_is_exported() -> None:
    for precision, typed in (("fp16", typed_fp16), ("bf16", typed_bf16)):
        candidate = Form(precision).of(network())
        assert network_from(candidate).hash == network_from(typed(network())).hash


def test_the_default_target_is_one_that_runs_the_precision() -> None:
    """ONNX Runtime, which comes first on a machine without a GPU, runs no bf16."""
    openvino = targets_by_name()["openvino-cpu"]
    if openvino.missing():
        with pytest.raises(FBNError, match="No target that runs bf16 is ready"):
            default_target("bf16")
    else:
        assert "bf16" in default_target("bf16").precisions
        budget = (Budget("latency", 1.0, None),)
        chosen = SearchSettings(budget, precision="bf16").resolved().budgets[0].target
        assert chosen == default_target("bf16").name


def test_a_search_is_for_the_target_that_its_budget_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """There its winner is profiled and held against the budget; the best target here is for
    budgets that name none."""
    best = default_target().name
    monkeypatch.setattr(OpenVinoCpu, "missing", lambda self: None)
    named, unnamed = (Budget("latency", 5.0, name) for name in ("openvino-cpu", None))
    assert SearchSettings((named,)).resolved().target == "openvino-cpu"
    assert SearchSettings((named, Budget("flops", 2e6))).resolved().target == "openvino-cpu"
    assert SearchSettings((named,), precision="bf16").resolved().target == "openvino-cpu"
    assert SearchSettings((named,), target="onnxruntime-cpu").resolved().target == "onnxruntime-cpu"
    if best != "openvino-cpu":
        both = SearchSettings((named, unnamed)).resolved()
        assert both.target == best
        assert {budget.target for budget in both.budgets} == {"openvino-cpu", best}
    assert SearchSettings((Budget("flops", 2e6),)).resolved().target is None


def targets_by_name() -> dict[str, Target]:
    return {target.name: target for target in targets()}


@pytest.mark.parametrize("unsigned", [False, True])
def test_a_candidate_in_int8_has_the_pairs_of_the_file_that_is_exported(unsigned: bool) -> None:
    """And its ranges let no activation through that the file's would not."""
    model = network()
    candidate = Form("int8", unsigned=unsigned).of(model)
    exported = quantized_int8(model, ranges_of(model, images()), unsigned=unsigned)
    assert operators(candidate) == operators(exported)
    kinds = [
        Counter(
            str(node.inputs[2].dtype) for node in each.graph if node.op_type == "QuantizeLinear"
        )
        for each in (candidate, exported)
    ]
    assert kinds[0] == kinds[1]
    assert np.isfinite(run(candidate, images())).all()


def test_fp32_and_a_part_without_layers_stay_as_they_are() -> None:
    model = network()
    assert Form().of(model) is model
    x = ir.Value(name="x", shape=ir.Shape([1, 8, 4, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    relu = ir.node("Relu", [x])
    relu.outputs[0].type = x.type
    alone = ir.Model(
        ir.Graph([x], relu.outputs, nodes=[relu], opset_imports={"": 18}), ir_version=10
    )
    assert Form("int8").of(alone) is alone


def test_the_form_is_that_which_the_budgets_targets_run_fastest() -> None:
    def form(precision: str, *names: str) -> Form:
        budgets = tuple(Budget("latency", 1.0, name) for name in names)
        return SearchSettings(budgets, precision=precision).form()

    assert form("fp32", "openvino-cpu") == Form("fp32", False, False)
    assert form("bf16", "openvino-cpu") == Form("bf16", False, False)
    assert form("int8", "openvino-cpu") == Form("int8", True, True)
    assert form("int8", "onnxruntime-cpu") == Form("int8", True, True)
    assert form("int8", "onnxruntime-cpu", "tensorrt") == Form("int8", True, False)


def refused(**changes: Any) -> str:
    with pytest.raises(FBNError) as error:
        SearchSettings((Budget("latency", 1.0, "onnxruntime-cpu"),), **changes).resolved()
    return str(error.value)


def test_a_precision_that_is_none_or_that_a_target_does_not_run_is_refused() -> None:
    assert "No precision 'int4'" in refused(precision="int4")
    assert "'onnxruntime-cpu' does not run bf16; it runs fp32, fp16, int8" in refused(
        precision="bf16"
    )


def test_layers_that_stay_fp32_are_for_int8_and_not_for_tables_from_elsewhere() -> None:
    kept = ("*depthwise*",)
    assert "--keep-fp32: only with --precision int8, not fp32" in refused(keep_fp32=kept)
    assert "--keep-fp32 and --latency-table do not go together" in refused(
        precision="int8", keep_fp32=kept, latency_tables=("table.json",)
    )


def test_a_said_target_that_does_not_run_the_precision_is_refused_before_the_search() -> None:
    """Also where no budget is of it: the file is profiled there, after all the training."""
    with pytest.raises(FBNError, match="'onnxruntime-cpu' does not run bf16"):
        SearchSettings(
            (Budget("flops", 2e6),), target="onnxruntime-cpu", precision="bf16"
        ).resolved()


# A smaller survey, and a confirmation under the quick protocol: this is about kinds, not care.
SEARCH = """
from fbn_deploy.pipeline import search
search.SURVEYED = 3
from fbn_deploy.latency.meter import LatencyMeter
LatencyMeter.confirm_in_fresh_process.__kwdefaults__["protocol"] = "quick"
from fbn_deploy.cli import main
main()
"""


def test_a_search_in_int8_measures_its_candidates_in_int8(tmp_path: Path) -> None:
    arguments = ["search", *TINY, *QUICK, "--candidates", "2", "--epochs", "0", "--latency-budget",
                 "1s", "--target", "onnxruntime-cpu", "--precision", "int8", "--run",
                 str(tmp_path / "run")]  # fmt: skip
    done = measuring(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Confirmed on onnxruntime-cpu in int8" in done.stdout
    found = json.loads((tmp_path / "run" / "search.json").read_text())
    assert found["settings"]["precision"] == "int8"
    measured = LatencyCache(tmp_path / FILE).records()
    assert len(measured) >= 3
    assert {record.conditions.precision for record in measured} == {"int8"}


def test_blocks_of_a_table_take_the_form_of_the_whole() -> None:
    """Where int8 has something to do, in blocks and in whole networks alike."""
    chosen = definition("nasbench201", 16, {"cells": 1, "channels": 4})
    supernet = build_supernet(chosen, 10)
    graph = candidate_graphs(supernet, 1)
    parts = parts_of(
        supernet,
        lambda architecture: fold_affine(graph(architecture))[0],
        1,
        Silent(),
        form=Form("int8", unsigned=True),
        probes=2,
    )
    for name in parts.inventory.graphs:
        found = operators(parts.model(name))
        layers = found["Conv"] + found["Gemm"]
        assert found["QuantizeLinear"] >= bool(layers), name
        assert parts.network(name).hash == parts.inventory.graphs[name].hash
