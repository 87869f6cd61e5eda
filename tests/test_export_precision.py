"""``fbn export --precision``: gated on real images, and nothing left behind when it fails."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from test_data_sources import write_images
from test_tensorrt_engines import needs_builder
from torch import nn

from fbn_deploy import summary
from fbn_deploy.errors import FBNError
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.precision.as_written import AsWritten
from fbn_deploy.export.precision.form import Form
from fbn_deploy.export.verification import Verification, verify
from fbn_deploy.files import sha256_of
from fbn_deploy.pipeline import precision as stage
from fbn_deploy.pipeline import ranges
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.pipeline.forms import PrecisionFile
from fbn_deploy.pipeline.precision import export_precision
from fbn_deploy.pipeline.precision_settings import PrecisionSettings, as_searched
from fbn_deploy.pipeline.retrain import load_subnet
from fbn_deploy.progress import Silent
from fbn_deploy.targets import (
    Target,
    _cpu,
    _cuda,
    form_for,
    ready_target,
)
from fbn_deploy.targets.openvino_cpu import OpenVinoCpu

TINY = ["--space", "nasbench201", "-o", "channels=4", "-o", "cells=1", "--resolution", "8"]
QUICK = ["--epochs", "0", "--candidates", "2", "--probe-size", "16", "--probe-batches", "2"]
INT8 = PrecisionSettings("int8", max_drop=5.0, calibration_images=64)


def fbn(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fbn_deploy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    done = fbn("deploy", *TINY, *QUICK, "--flops-budget", "2M", "--retrain-epochs", "3", "--run",
               str(path), "--precision", "int8", "--calibration-images", "64", "--max-drop", "5",
               "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)["precision"]
    assert content["precision"] == "int8"
    assert content == json.loads((path / "verify.int8.json").read_text())
    return path


@pytest.fixture(scope="module")
def folded(run: Path) -> ir.Model:
    context = open_run(run, Given(), Silent(), create=False)
    network, _ = load_subnet(context)
    graph = onnx_from_module(network, context.definition.resolution)
    return stage._folded(graph, INT8, Form("int8"))


@pytest.fixture
def context(run: Path, folded: ir.Model, monkeypatch: pytest.MonkeyPatch) -> Context:
    """The run, exported and folded once; nothing is timed."""
    still: dict[str, Any] = {"target": "onnxruntime-cpu", "latency_ms": 1.0, "fp32_latency_ms": 2.0}
    still["disturbed"] = []
    monkeypatch.setattr(stage, "onnx_from_module", lambda *arguments: folded)
    monkeypatch.setattr(stage, "_folded", lambda *arguments: folded)
    monkeypatch.setattr(stage, "_speed", lambda *arguments: still)
    return open_run(run, Given(), Silent(), create=False)


def exported(
    context: Context, settings: PrecisionSettings, targets: list[Target] | None = None
) -> dict[str, Any]:
    network, _ = load_subnet(context)
    return export_precision(context, network, settings, file_for(settings.precision, targets))


def file_for(
    precision: str, targets: list[Target] | None = None, form: Form | None = None
) -> PrecisionFile:
    targets = targets or [ready_target("onnxruntime-cpu")]
    form = form or form_for(precision, [target.name for target in targets])
    return PrecisionFile(precision, form, targets, targets)


def test_deploy_leaves_a_verified_int8_model_with_its_ranges(run: Path) -> None:
    verified = json.loads((run / "verify.int8.json").read_text())
    for result in verified["results"]:
        assert result["accuracy_trained"] - result["accuracy_exported"] <= 0.05
    ops = [node.op_type for node in onnx.load(run / "model.int8.onnx").graph.node]
    assert ops.count("QuantizeLinear") > 10
    ranges = json.loads((run / "calibration.mse.json").read_text())
    assert ranges["count"] == 64
    assert ranges["data_hash"] == verified["calibration"]["data_hash"]


def test_verifications_say_what_they_were_told_and_which_network_they_are_of(run: Path) -> None:
    verified = json.loads((run / "verify.int8.json").read_text())
    told = {**dataclasses.asdict(INT8), "keep_fp32": []}
    assert verified["settings"] == told
    for name in ("verify.json", "verify.int8.json"):
        content = json.loads((run / name).read_text())
        assert content["subnet_sha256"] == sha256_of(run / "subnet.safetensors")


def test_a_profile_says_the_hash_of_its_file_and_the_report_compares_it(run: Path) -> None:
    content = json.loads((run / "profile.int8.json").read_text())
    assert content["onnx_sha256"] == sha256_of(run / "model.int8.onnx")
    assert "does not hold" not in (run / "report.html").read_text()


def test_int8_weights_fit_the_processor(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for levels in (63, 127):
        monkeypatch.setattr(_cpu, "int8_weight_levels", lambda levels=levels: levels)
        assert exported(context, INT8)["weight_levels"] == levels
        model = onnx.load(context.run.precision_model("int8"))
        weights = [
            onnx.numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if tensor.name.endswith("weight_quantized")
        ]
        assert max(abs(int(weight.min())) for weight in weights) == levels


def test_an_export_says_which_activations_the_file_holds(context: Context) -> None:
    network, _ = load_subnet(context)
    targets = [ready_target("onnxruntime-cpu")]
    for unsigned, name in ((True, "uint8"), (False, "int8")):
        file = file_for("int8", targets, Form("int8", unsigned=unsigned))
        content = export_precision(context, network, INT8, file)
        assert content["activations"] == name
        assert (name == "uint8") == ("TensorRT takes int8" in summary.precision(content, Path()))
        model = onnx.load(context.run.precision_model("int8"))
        assert f"{name}_zero_point" in {tensor.name for tensor in model.graph.initializer}


def test_ranges_are_reused_only_for_the_same_model_and_images(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    calibrate = ranges.calibrated

    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(named["count"])
        return calibrate(*arguments, **named)

    monkeypatch.setattr(ranges, "calibrated", counting)
    exported(context, dataclasses.replace(INT8, calibration_images=32))
    exported(context, dataclasses.replace(INT8, calibration_images=32))
    exported(context, dataclasses.replace(INT8, calibration_images=40))
    assert calls == [32, 40]


def test_what_fails_the_gate_is_not_left_behind_and_the_old_file_stays(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(context, INT8)
    before = context.run.precision_model("int8").read_bytes()
    monkeypatch.setattr(
        stage, "typed_fp16", lambda model: stage.quantized_int8(model, _absurd(context))
    )
    with pytest.raises(FBNError, match=r"model.fp16.onnx was not written: a top-1 drop of at most"):
        exported(context, PrecisionSettings("fp16"))
    names = {path.name for path in context.run.path.iterdir()}
    assert "model.fp16.onnx" not in names
    assert "verify.fp16.json" not in names
    assert not [name for name in names if name.endswith(".tmp")]
    assert context.run.precision_model("int8").read_bytes() == before


def test_the_most_sensitive_layers_stay_fp32_until_the_gate_passes(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    absurd = _absurd(context, only="images")  # what the stem reads is clipped to nothing
    monkeypatch.setattr(stage, "stored_ranges", lambda *arguments, **options: absurd)
    content = exported(context, INT8)
    assert content["kept_fp32"] == ["stem.0/Conv"]
    assert next(iter(content["sensitivity"])) == "stem.0/Conv"
    hopeless = _absurd(context)
    monkeypatch.setattr(stage, "stored_ranges", lambda *arguments, **options: hopeless)
    refusal = r"Even with the .* most sensitive layers in fp32\. .* alone in int8: .*/Conv \("
    with pytest.raises(FBNError, match=refusal):
        exported(context, INT8)


def test_layers_named_by_the_user_stay_fp32(context: Context) -> None:
    kept = ("stem", "classifier")
    content = exported(context, dataclasses.replace(INT8, keep_fp32=kept, analyze=True))
    assert content["kept_fp32"] == list(kept)
    assert "classifier/Gemm" not in content["sensitivity"]
    values = list(content["sensitivity"].values())
    assert values == sorted(values, reverse=True)


def test_the_seed_draws_the_images_and_weights_may_have_the_ranges_of_least_error(
    context: Context,
) -> None:
    content = exported(context, INT8)
    other = exported(context, dataclasses.replace(INT8, calibration_seed=7, weights_by_mse=True))
    assert other["calibration"]["data_hash"] != content["calibration"]["data_hash"]
    assert (content["weights_by_mse"], other["weights_by_mse"]) == (False, True)
    assert exported(context, INT8)["calibration"] == content["calibration"]


def test_int8_that_is_slower_than_the_fp32_that_is_deployed_is_warned_of(
    context: Context, folded: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On OpenVINO fp32 is deployed without the convolutions that stand for shifts in int8."""
    forms: list[bool] = []

    def refolded(exported: ir.Model, settings: PrecisionSettings, form: Form) -> ir.Model:
        forms.append(form.as_convolution)
        return folded

    said: list[str] = []
    slower = {
        "target": "openvino-cpu",
        "latency_ms": 2.5,
        "fp32_latency_ms": 2.0,
        "disturbed": ["rounds varied by 8%"],
    }
    monkeypatch.setattr(stage, "_folded", refolded)
    monkeypatch.setattr(stage, "_speed", lambda *arguments: slower)
    monkeypatch.setattr(context.reporter, "say", said.append)
    judges = [ready_target("onnxruntime-cpu")]
    network, _ = load_subnet(context)
    file = PrecisionFile("int8", Form("int8", unsigned=True), judges, [OpenVinoCpu()])
    export_precision(context, network, INT8, file)
    assert forms == [True, False]
    assert (
        "Warning: on openvino-cpu int8 is slower than fp32 here: 2.500 ms against 2.000 ms. "
        "Disturbed: rounds varied by 8%."
    ) in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"calibration_images": 3}, "it needs at least 8"),
        ({"keep_fp32": ("stemm",)}, "No layer that INT8 could run called 'stemm'"),
    ],
)
def test_wrong_calibration_changes_nothing(
    context: Context, changes: dict[str, Any], said: str
) -> None:
    before = sorted(path.name for path in context.run.path.iterdir())
    with pytest.raises(FBNError, match=said):
        exported(context, dataclasses.replace(INT8, **changes))
    assert sorted(path.name for path in context.run.path.iterdir()) == before


def test_every_mistake_of_the_settings_is_in_one_message() -> None:
    with pytest.raises(FBNError) as caught:
        PrecisionSettings("int4", max_drop=-1, calibration="kl", calibration_batch=0).checked()
    for part in ("No precision 'int4'", "--max-drop", "No calibration method 'kl'", "at least 1"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "int4"], "No precision 'int4'; there are: bf16, fp16, int8"),
        (["--max-drop", "1"], "--max-drop: only with --precision"),
    ],
)
def test_wrong_options_get_one_message_and_exit_code_2(
    run: Path, arguments: list[str], said: str
) -> None:
    done = fbn("export", str(run), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@needs_builder
@pytest.mark.skipif(_cuda.driver_problem() is None, reason="there is a GPU, where engines run")
def test_an_engine_is_built_beside_the_int8_file_of_the_run(run: Path, tmp_path: Path) -> None:
    """TensorRT takes no uint8, so that the signed file and the engine have names of their own; as
    written they are held against the network, and nothing is timed here."""
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    own = ("model.int8.onnx", "verify.int8.json", "profile.int8.json")
    before = {name: (copied / name).read_bytes() for name in own}
    options = ["--precision", "int8", "--max-drop", "5", "--calibration-images", "64"]
    done = fbn("export", str(copied), *options, "--target", "tensorrt-rtx", "--build-only")
    assert done.returncode == 0, done.stderr
    engine = copied / "model.int8-signed.tensorrt-rtx.engine"
    assert f"{engine}: built, not run: no GPU here" in done.stdout
    assert {name: (copied / name).read_bytes() for name in own} == before
    verified = json.loads((copied / "verify.int8-signed.json").read_text())
    assert (verified["activations"], verified["weight_levels"]) == ("int8", 127)
    assert [result["target"] for result in verified["results"]] == ["as written"]
    assert verified["speed"] == []
    story = json.loads(engine.with_name(engine.name + ".json").read_text())
    assert (story["precision"], story["model"]) == ("int8", "model.int8-signed.onnx")
    assert story["onnx_sha256"] == verified["onnx_sha256"]
    signed = onnx.load(copied / "model.int8-signed.onnx")
    zeros = [t.data_type for t in signed.graph.initializer if "zero_point" in t.name]
    assert set(zeros) == {onnx.TensorProto.INT8}
    reported = fbn("report", str(copied), "--json")
    assert reported.returncode == 0, reported.stderr


def test_a_folder_that_holds_no_images_any_more_is_named_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for split in ("train", "test"):
        for name, colour in (("dark", (20, 20, 20)), ("light", (200, 210, 220))):
            write_images(data / split / name, 20, colour)
    done = fbn("deploy", *TINY, *QUICK, "--flops-budget", "2M", "--retrain-epochs", "1",
               "--data", str(data), "--run", str(run))  # fmt: skip
    assert done.returncode == 0, done.stderr
    before = {path: path.stat().st_mtime_ns for path in run.glob("[!.]*")}
    for image in data.rglob("*.*"):
        image.unlink()
    done = fbn("export", str(run), "--precision", "int8")
    assert done.returncode == 2
    assert str(data) in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in run.glob("[!.]*")} == before


def _absurd(context: Context, only: str = "") -> Any:
    """Ranges a thousand times too small; of the tensor ``only``, where it is given."""
    network, _ = load_subnet(context)
    model = stage._folded(stage.onnx_from_module(network), INT8, Form("int8"))
    found = stage.stored_ranges(context, model, INT8)
    small = {name: amax / 1000 if only in ("", name) else amax for name, amax in found.amax.items()}
    return dataclasses.replace(found, amax=small)


def test_layers_that_the_search_left_in_fp32_stay_there_unless_others_are_named() -> None:
    searched = {"precision": "int8", "keep_fp32": ["*depthwise*"]}
    assert as_searched(INT8, searched).keep_fp32 == ("*depthwise*",)
    named = dataclasses.replace(INT8, keep_fp32=("stem",))
    assert as_searched(named, searched) == named
    assert as_searched(INT8, {"precision": "fp32", "keep_fp32": []}) == INT8
    assert as_searched(PrecisionSettings("fp16"), searched).keep_fp32 == ()


def test_a_network_that_answers_nan_is_not_verified(run: Path) -> None:
    context = open_run(run, Given(), Silent(), create=False)
    network, _ = load_subnet(context)
    with torch.no_grad():
        next(m for m in network.modules() if isinstance(m, nn.Linear)).bias[0] = torch.nan
    with pytest.raises(FBNError, match="The trained network answers 359 of 359 images with NaN"):
        verify(run / "model.onnx", network, context.data, context.data.test,
               ready_target("onnxruntime-cpu"), batch=359)  # fmt: skip


def test_a_refusal_in_16_bits_names_the_agreement(context: Context) -> None:
    network, _ = load_subnet(context)
    settings = PrecisionSettings("fp16", max_drop=100.0)
    gate = stage._Gate(context, network, settings, file_for("fp16"), stage.onnx_from_module())
    said = gate._refusal(Path("model.fp16.onnx"), [])
    assert "an agreement of at least 99 %" in said


@pytest.mark.parametrize(
    ("precision", "drop", "agreement", "passed"),
    [
        ("fp16", 0.005, 0.99, True),
        ("fp16", 0.005, 0.98, False),
        ("bf16", 0.006, 0.99, False),
        ("int8", 0.005, 0.50, True),
        ("int8", 0.006, 1.00, False),
        ("fp32", 0.000, 1.00, False),  # its error is 0.1
    ],
)
def test_one_rule_says_what_a_precision_may_lose(
    precision: str, drop: float, agreement: float, passed: bool
) -> None:
    found = Verification("made up", 1000, 0.1, agreement, 0.9, 0.9 - drop)
    assert found.passed_in(precision, max_drop=0.5) == passed


def test_what_overflows_float16_is_refused_though_the_processor_computes_it_in_float32(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of 1e5 and more between two convolutions, which leave logits of the usual size. As
    written they are no numbers."""
    layers = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers).eval()
    with torch.no_grad():
        layers[0].weight.fill_(6e4)
        layers[1].weight.mul_(1e-2)
    model = onnx_from_module(network, 8)
    file = file_for("fp16")
    gate = stage._Gate(context, network, PrecisionSettings("fp16"), file, model)
    path = context.run.path / "unseen.onnx"
    ir.save(stage.typed_fp16(model), path)
    assert gate._passes(gate._verified(path, file.judges[0]))
    with pytest.raises(FBNError, match=r"unseen\.onnx on as written answers .* NaN or infinity"):
        gate._verified(path, AsWritten())
    path.unlink()
    monkeypatch.setattr(stage, "_folded", lambda *arguments: model)
    said = r"float16 ends at 65,504, and on 32 .* 1 of 5 tensors .* to [\d,]+\. Choose .* bf16"
    with pytest.raises(FBNError, match=said):
        export_precision(context, network, PrecisionSettings("fp16"), file)
    assert not context.run.precision_model("fp16").exists()


def test_fp16_of_an_ordinary_network_is_written(context: Context) -> None:
    content = exported(context, PrecisionSettings("fp16"))
    assert content["results"][0]["top1_agreement"] >= 0.99
    for path in (context.run.precision_model("fp16"), context.run.precision_verify("fp16")):
        path.unlink()


def test_layers_are_ranked_with_the_weights_of_the_file(context: Context) -> None:
    settings = dataclasses.replace(INT8, analyze=True)
    by_mse = exported(context, dataclasses.replace(settings, weights_by_mse=True))
    assert by_mse["sensitivity"] != exported(context, settings)["sensitivity"]
