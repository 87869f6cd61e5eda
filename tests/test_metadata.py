"""A file tells how it is fed: by that alone, an image gives the logits of the trained network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from PIL import Image
from test_readme import shown
from torch import nn

from fbn_deploy.export.calibration import calibrated
from fbn_deploy.export.estimators import estimator
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.metadata import described, feeding
from fbn_deploy.export.precision import activations, quantized_int8, typed_bf16, typed_fp16
from fbn_deploy.files import read_json
from fbn_deploy.latency.network import network_from
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.pipeline.export import export_subnet
from fbn_deploy.progress import Silent
from fbn_deploy.targets import ready_target

CLASSES = ("Käse", "brot")
SIZES = {
    "a.png": (50, 37),
    "b.jpg": (31, 60),
    "c.png": (16, 16),
    "d.jpg": (400, 301),
    "e.png": (400, 301),
}


def network() -> nn.Module:
    """Every pixel counts, at its place."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2)
    ).eval()


def photograph(width: int, height: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Exported:
    context: Context
    images: Path
    content: dict[str, Any]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A run on photographs of all shapes, whose network is exported."""
    folder = tmp_path_factory.mktemp("feeding")
    for number, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for seed, (file, size) in enumerate(SIZES.items()):
            photograph(*size, 10 * number + seed).save(folder / "images" / name / file)
    options = {"channels": 4, "cells": 1}
    given = Given("nasbench201", 16, options, data=str(folder / "images"))
    context = open_run(folder / "run", given, Silent())
    context.run.subnet.write_bytes(b"the weights of the network above")
    content = export_subnet(context, network(), [ready_target("onnxruntime-cpu")])
    return Exported(context, folder / "images", content)


@pytest.mark.parametrize(("file", "tolerance"), [
    ("a.png", 1e-5), ("b.jpg", 1e-5), ("c.png", 1e-5), ("d.jpg", 1e-5), ("e.png", 0.02),
])  # fmt: skip
def test_what_readme_shows_gives_the_logits_of_the_network_on_the_loaders_pixels(
    exported: Exported,
    file: str,
    tolerance: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"{CLASSES[1]}/{file}"
    (tmp_path / "model.onnx").write_bytes(exported.context.run.model.read_bytes())
    (tmp_path / "photo.jpg").write_bytes((exported.images / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(shown("onnxruntime"), found)
    data = exported.context.data
    pixels = data.train.images.batch(torch.tensor([data.files.index(name)]))
    with torch.no_grad():
        expected = network()(data.normalize(pixels)).numpy()
    difference = np.abs(found["logits"] - expected).max() / np.abs(expected).max()
    assert difference < tolerance
    assert capsys.readouterr().out.strip() == CLASSES[expected[0].argmax()]


def test_the_verification_says_what_the_file_says(exported: Exported) -> None:
    told = {each.key: each.value for each in onnx.load(exported.context.run.model).metadata_props}
    content = read_json(exported.context.run.verify)
    split = read_json(exported.context.run.split)
    assert content["classes"] == json.loads(told["classes"]) == list(CLASSES)
    assert content["input"]["mean"] == json.loads(told["input.mean"]) == split["mean"]
    assert content["input"]["std"] == json.loads(told["input.std"]) == split["std"]
    assert content["input"]["resolution"] == json.loads(told["input.resolution"]) == 16
    for name in ("layout", "resize", "values"):
        assert content["input"][name] == told[f"input.{name}"]
    assert {f"input.{name}" for name in content["input"]} < told.keys()


def test_folding_and_precisions_keep_it_and_latencies_do_not_depend_on_it(
    exported: Exported,
) -> None:
    data, plain = exported.context.data, onnx_from_module(network(), 16)
    model = described(plain, data)
    assert "classes" not in plain.metadata_props
    folded = fold_affine(model)[0]
    batches = [data.normalize(data.full_train.batch(range(8))).contiguous().numpy()]
    ranges = calibrated(
        folded, activations(folded), batches, [estimator("minmax")],
        count=8, data_hash="", reporter=Silent(),
    )["minmax"]  # fmt: skip
    made = {"folded": folded, "fp16": typed_fp16(folded), "bf16": typed_bf16(folded),
            "int8": quantized_int8(folded, ranges)}  # fmt: skip
    names = {f"input.{name}" for name in feeding(data)["input"]} | {"classes"}
    for precision, each in made.items():
        assert names <= each.metadata_props.keys(), precision
        bare = ir.serde.deserialize_model(ir.to_proto(each))
        bare.metadata_props.clear()
        assert network_from(bare).hash == network_from(each).hash
