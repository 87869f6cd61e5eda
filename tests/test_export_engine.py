"""The stage that builds an engine: what takes its name, what is refused, what it says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir
import pytest
from torch import nn

from fbn_deploy import summary
from fbn_deploy.commands._groups import EngineBuildOptions
from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.pipeline.engine import EngineSettings, export_engine
from fbn_deploy.progress import Silent
from fbn_deploy.targets import EngineOptions, engine_targets, ready_target
from fbn_deploy.targets._engines import EngineReport
from fbn_deploy.targets._tensorrt import engine_file
from fbn_deploy.targets.tensorrt_rtx import TARGET as RTX

CPU = ready_target("onnxruntime-cpu")


@dataclass(frozen=True)
class Played:
    """TensorRT on a GPU that is none: its engines are ONNX files, which the CPU runs."""

    name: str = "tensorrt-rtx"
    delivers: Path | None = None
    """Another model than it was asked for: a builder that makes mistakes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(CPU, name)

    def cannot_build(self) -> None:
        return None

    def engine_path(self, model: Path) -> Path:
        return model.with_name(f"{model.stem}.{self.name}.engine")

    def engine_from_onnx(
        self,
        model: Path,
        destination: Path,
        *,
        check: Any,
        options: EngineOptions,
        about: dict[str, Any],
        **_: Any,
    ) -> EngineReport:
        plan = (self.delivers or model).read_bytes()
        story = {
            "target": self.name,
            "version": "1",
            "device": {"gpu": "none"},
            "onnx_sha256": "",
            "options": dataclasses.asdict(options),
            **about,
            "build": {"seconds": 0.1, "warnings": [], "layers": []},
        }
        return EngineReport(destination, engine_file.save(destination, plan, story, check))


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Context, nn.Module, Path, Path]:
    """A run, its network, the network's model and the model of another one."""
    folder = tmp_path_factory.mktemp("engine")
    given = Given(space="nasbench201", resolution=8, options={"channels": "4", "cells": "1"})
    context = open_run(folder, given, Silent())
    network, other = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                      nn.Linear(4, 10))
        for _ in range(2)
    )  # fmt: skip
    for name, module in (("model.onnx", network), ("other.onnx", other)):
        onnx_ir.save(fold_affine(onnx_from_module(module, 8))[0], folder / name)
    return context, network, folder / "model.onnx", folder / "other.onnx"


def settings(target: Any, build_only: bool = False) -> EngineSettings:
    return EngineSettings(target, EngineOptions(batch=7), build_only)


def remove(engine: Path) -> None:
    for path in (engine, engine_file.story_path(engine)):
        path.unlink()


def test_an_engine_that_agrees_with_the_network_takes_its_name(exported: Any) -> None:
    context, network, model, _ = exported
    story = export_engine(context, network, model, settings(Played()))
    assert story["verification"]["passed"]
    assert story["verification"]["images"] == len(context.data.test)
    assert "agreement 100.00 %" in summary.engine(story, model)
    assert story["input"]["mean"] == list(context.data.mean)
    assert story["classes"] == list(context.data.classes)
    assert (model.parent / "model.tensorrt-rtx.engine").read_bytes() == model.read_bytes()
    remove(model.parent / "model.tensorrt-rtx.engine")


def test_an_engine_that_differs_is_refused_and_the_older_one_stays(exported: Any) -> None:
    context, network, model, other = exported
    engine = model.parent / "model.tensorrt-rtx.engine"
    engine.write_bytes(b"older")
    with pytest.raises(FBNError, match="differs from the trained network, so it was not written"):
        export_engine(context, network, model, settings(Played(delivers=other)))
    assert engine.read_bytes() == b"older"
    assert not engine_file.story_path(engine).exists()
    engine.unlink()


def test_an_engine_in_16_bits_has_to_agree_as_a_file_does(exported: Any) -> None:
    context, network, model, other = exported
    target = Played(delivers=other)
    in_fp16 = dataclasses.replace(settings(target), precision="fp16", max_drop=100.0)
    with pytest.raises(FBNError, match="an agreement of at least 99 % is allowed"):
        export_engine(context, network, model, in_fp16)
    in_int8 = dataclasses.replace(in_fp16, precision="int8")
    assert export_engine(context, network, model, in_int8)["verification"]["passed"]
    remove(target.engine_path(model))


@pytest.mark.skipif(RTX.cannot_build() is not None, reason="tensorrt-rtx is not installed")
def test_an_engine_that_is_only_built_says_so(exported: Any) -> None:
    context, network, model, _ = exported
    story = export_engine(context, network, model, settings(RTX, build_only=True))
    assert story["verification"] is None
    assert story["input"]["resolution"] == 8
    said = summary.engine(story, RTX.engine_path(model))
    assert said.startswith(str(model.parent / "model.tensorrt-rtx.engine"))
    why = "no GPU here" if story["device"] is None else "as asked"
    assert said.endswith(f"built, not run: {why}")
    remove(RTX.engine_path(model))


def test_options_of_engines_are_refused_for_targets_that_build_none() -> None:
    assert engine_targets() == ["tensorrt", "tensorrt-rtx"]
    assert EngineBuildOptions().builder("onnxruntime-cpu") is None
    for target in (None, "onnxruntime-cpu"):
        with pytest.raises(FBNError, match="go with --target tensorrt or tensorrt-rtx"):
            EngineBuildOptions(build_only=True).builder(target)


@pytest.mark.skipif(RTX.missing() is None, reason="there is a GPU")
@pytest.mark.skipif(RTX.cannot_build() is not None, reason="tensorrt-rtx is not installed")
def test_without_a_gpu_building_without_running_is_offered() -> None:
    with pytest.raises(FBNError, match=r"is not ready: .* Or build without running: --build-only"):
        EngineBuildOptions().builder("tensorrt-rtx")
    assert EngineBuildOptions(build_only=True).builder("tensorrt-rtx") is RTX
