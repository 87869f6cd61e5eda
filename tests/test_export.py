"""``model.onnx`` takes its name only if it computes what the trained network computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.pipeline import export as stage
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.progress import Silent
from fbn_deploy.targets import ready_target


@pytest.fixture
def context(tmp_path: Path) -> Context:
    space = {"channels": 4, "cells": 1}
    run = open_run(tmp_path / "run", Given("nasbench201", 8, space), Silent())
    run.run.subnet.write_bytes(b"the weights of the network below")
    return run


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10)).eval()


def exported(context: Context) -> dict[str, Any]:
    return stage.export_subnet(context, network(), [ready_target("onnxruntime-cpu")])


def folds_wrongly(model: ir.Model, **options: Any) -> Any:
    """One filter of eight is 5 % too large."""
    folded, report = fold_affine(model, **options)
    (weight,) = [v for v in folded.graph.initializers.values() if len(v.shape or ()) == 4]
    assert weight.const_value is not None
    values = np.array(weight.const_value.numpy())
    values[0] *= 1.05
    weight.const_value = ir.tensor(values, name=weight.name)
    return folded, report


def test_a_file_that_differs_from_the_trained_network_is_not_written(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = context.run, sorted(context.run.path.iterdir())
    monkeypatch.setattr(stage, "fold_affine", folds_wrongly)
    with pytest.raises(FBNError, match=r"differs from the trained one, so .*model\.onnx was not"):
        exported(context)
    assert sorted(run.path.iterdir()) == before, "Neither a model, a verification nor a leftover."


def test_an_older_file_stays_where_a_new_one_fails(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = context.run
    assert exported(context) == json.loads(run.verify.read_text())
    files = {path: path.read_bytes() for path in run.path.iterdir()}
    assert {run.model, run.verify, run.fold_report} <= files.keys()
    monkeypatch.setattr(stage, "fold_affine", folds_wrongly)
    with pytest.raises(FBNError, match=r"model\.onnx was not written: onnxruntime-cpu: 359 images"):
        exported(context)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == files
