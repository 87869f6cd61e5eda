"""The report of a run: what it says, what it refuses, and that nothing in a run can break it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from report_page import READY, Page, changed, commands, page, verdict
from report_runs import (
    CHAIN,
    DARTS,
    FLOPS,
    LATENCY,
    NB101,
    NB201,
    built,
    candidate,
    exported,
    measured,
    profiled,
    quantized,
    searched,
    started,
    trained,
    whole,
    write,
)
from test_latency_cache import record

from fbn_deploy.report.page import write_report
from fbn_deploy.report.run import read_run

NASTY = "<img src=x onerror=alert(1)>\"'&\u202e</style></svg>"


def test_the_page_says_what_was_confirmed_and_with_what_certainty(tmp_path: Path) -> None:
    text = page(whole(tmp_path)).text
    assert "Confirmed 1.500 ms, at most 1.600 ms; the budget is 2 ms. 30 runs in 3 proc" in text
    assert "90.00 % top-1 on 200 test images" in text
    assert "12 of 24 sampled networks (50 %) meet 2 ms on onnxruntime-cpu." in text
    assert "Agrees with the trained network on 100.00 % of 200 images" in text
    assert "a CPU" in text
    assert "onnxruntime 1.2.3" in text
    assert "2026-01-01 00:00:00 UTC" in text


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    run = quantized(built(whole(tmp_path)))
    html = write_report(run)[0].read_text(encoding="utf-8")
    found = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & {name for name, _ in found.elements}
    targets = [attributes.get("href") for _, attributes in found.elements]
    assert all(target.startswith("#") for target in targets if target)
    assert "url(" not in html
    assert "@import" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_every_link_leads_to_a_section(tmp_path: Path) -> None:
    found = page(started(tmp_path))
    sections = {attributes.get("id") for _, attributes in found.elements}
    assert {a["href"] for name, a in found.elements if name == "a"} <= {f"#{id}" for id in sections}


def test_names_from_a_users_files_stay_text(tmp_path: Path) -> None:
    choices = {**CHAIN, NASTY: NASTY, f"1<-{0}": NASTY}
    run = searched(started(tmp_path, space=NASTY, classes=(NASTY, "\ud800")), choices)
    quantized(built(profiled(exported(trained(run, choices))), target=NASTY))
    changed(run / "profile.json", "layers", 0, "name", to=NASTY)
    changed(run / "verify.int8.json", "kept_fp32", to=[NASTY])
    changed(run / "search.json", "settings", "indicator", to=NASTY)
    html = write_report(run)[0].read_text(encoding="utf-8")
    found = Page(html)
    assert not found.open
    assert {name for name, _ in found.elements} <= EXPECTED
    assert not any(name.startswith("on") for _, each in found.elements for name in each)
    assert "\u202e" not in html
    assert "<img src=x onerror=alert(1)>" in found.text


EXPECTED = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section",
    "h1", "h2", "h3", "p", "a", "b", "code", "pre", "span", "div", "figure", "figcaption", "ul",
    "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "details",
    "summary", "wbr", "svg", "g", "path", "line", "rect", "circle", "text", "tspan",
}  # fmt: skip


def test_what_is_not_done_is_named_with_its_command(tmp_path: Path) -> None:
    run = started(tmp_path / "a run")
    text = page(run).text
    assert f"fbn search --run '{run}' --latency-budget 10ms" in text
    searched(run)
    text = page(run).text
    for command in (
        f"fbn retrain '{run}'",
        f"fbn export '{run}'",
        f"fbn profile '{run}'",
        f"fbn export '{run}' --precision int8",
        f"fbn export '{run}' --target tensorrt",
    ):
        assert command in text
    assert verdict(run).headline == "Not finished: accuracy, verification"


def test_a_run_without_a_latency_budget_has_its_counts(tmp_path: Path) -> None:
    run = profiled(exported(trained(searched(started(tmp_path), budgets=(FLOPS,)))))
    found = page(run)
    assert "39M FLOPs, counted; the budget is 40M FLOPs." in found.text
    assert "Rank against multiply-adds" in found.text
    assert "no budget was set for these conditions" in found.text
    assert verdict(run).headline == READY


def test_every_budget_has_its_chart(tmp_path: Path) -> None:
    found = page(searched(started(tmp_path), budgets=(FLOPS, LATENCY)))
    assert "Rank against multiply-adds" in found.text
    assert "Rank against latency on onnxruntime-cpu" in found.text
    assert "12 of 24 sampled networks (50 %) meet all of these budgets." in found.text


def test_costs_that_are_not_known_are_not_drawn(tmp_path: Path) -> None:
    run = searched(started(tmp_path))
    unknown = candidate({**CHAIN, "stage1.0": "x"}, 9.0, measured(1e30), flops=1e30)
    content = json.loads((run / "search.json").read_text())
    changed(run / "search.json", "candidates", to=[*content["candidates"], unknown])
    changed(run / "search.json", "survey", "ranges", 0, "most", to=1e30)
    found = page(run)
    assert "Not drawn, since their cost is not known: 1 candidate." in found.text
    assert "slowest not known" in found.text
    assert "1e+30" not in found.text


def test_candidates_before_the_chosen_one_broke_the_budget(tmp_path: Path) -> None:
    run = searched(started(tmp_path))
    better = candidate({**CHAIN, "stage2.0": "mb3_k7"}, 0.5, measured(1.9))
    content = json.loads((run / "search.json").read_text())
    changed(run / "search.json", "candidates", to=[better, *content["candidates"]])
    assert "place 2: the 1 candidate before it broke the budget" in page(run).text


@pytest.mark.parametrize(
    ("choices", "shown"),
    [
        (CHAIN, ["stage1", "mb3_k3", "identity", "stage2", "mb6_k5"]),
        (NB201, ["nor_conv_3x3", "none", "skip_connect", "avg_pool_3x3"]),
        (DARTS, ["Cell normal", "Cell reduce", "dil_conv_5x5"]),
        (NB101, ["maxpool3x3", "conv3x3-bn-relu"]),
        ({"head": "wide", "neck-3": "x"}, ["head", "wide", "neck"]),
    ],
    ids=["chain", "nasbench201", "darts", "nasbench101", "own"],
)
def test_an_architecture_is_drawn_by_its_names(
    tmp_path: Path, choices: dict[str, str], shown: list[str]
) -> None:
    text = page(searched(started(tmp_path), choices)).text
    section = text[text.rindex("Architecture") :]
    assert all(each in section for each in shown)


def test_a_curve_is_drawn_where_epochs_were_looked_at_and_only_there(tmp_path: Path) -> None:
    run = whole(tmp_path)
    assert "No curve of accuracy: this recipe keeps the last weights" in page(run).text
    trained(run, validation=((1, 0.5), (2, 0.8), (3, 0.7)))
    text = page(run).text
    assert "the weights of epoch 2 were kept" in text
    assert "epoch 3: 70.00 %" in text


def test_a_runtime_that_times_no_layers_says_why(tmp_path: Path) -> None:
    run = whole(tmp_path)
    changed(run / "profile.json", "layers", to=[])
    assert "The target told no layers." in page(run).text
    changed(run / "profile.json", "without_layers", to="It was built without CUPTI.")
    assert "It was built without CUPTI." in page(run).text


def test_the_curve_of_losses_is_drawn_whatever_the_recipe_looks_at(tmp_path: Path) -> None:
    run = trained(whole(tmp_path), losses=((1, 2.25), (2, 1.5)))
    text = page(run).text
    assert "epoch 2: 1.500" in text
    assert "Training loss of each epoch" in text


def test_a_training_that_was_stopped_says_where_it_stands(tmp_path: Path) -> None:
    run = searched(started(tmp_path))
    kept = {"epochs": [[1, 0.5], [2, 0.6]], "losses": [[1, 3], [2, 2.5]]}
    about = {"step": 120, "seconds": 30.0, "kept": kept}
    header = json.dumps({"__metadata__": {"about": json.dumps(about)}}).encode()
    checkpoint = len(header).to_bytes(8, "little") + header
    (run / "subnet.partial.safetensors").write_bytes(checkpoint)
    text = page(run).text
    assert "stands at step 120" in text
    assert "epoch 1: 50.00 %" in text
    assert "epoch 1: 3.000" in text
    assert f"fbn retrain {run}" in text


def test_commands_that_do_it_again_can_be_read_by_the_commands(tmp_path: Path) -> None:
    run = built(quantized(searched_and_trained(tmp_path)))
    search, retrain, export, int8, engine, profile, report = commands(run)
    assert "--latency-budget onnxruntime-cpu:2ms" in search
    assert "--flops-budget 40M" in search
    assert "--seed 3" in search
    assert "--precision" not in search
    assert retrain == "fbn retrain again --recipe quick --set epochs=5"
    assert export == "fbn export again"
    assert int8 == "fbn export again --precision int8 --max-drop 2 --keep-fp32 stem.conv/Conv"
    assert engine == "fbn export again --target tensorrt --build-only --batch 1"
    assert (profile, report) == ("fbn profile again", "fbn report again")


def test_an_int8_file_beside_that_of_the_budget_is_not_what_ships(tmp_path: Path) -> None:
    run = quantized(searched_and_trained(tmp_path))
    signed = {"model": "model.int8-signed.onnx", "activations": "int8", "target": "tensorrt"}
    written = {**json.loads((run / "verify.int8.json").read_text()), **signed}
    (run / "verify.int8-signed.json").write_text(json.dumps(written))
    (run / "model.int8-signed.onnx").write_bytes(b"signed")
    found = read_run(run)
    assert [each.label for each in found.precisions] == ["int8", "int8-signed"]
    *_, own, beside, _, _ = commands(run)
    assert own == "fbn export again --precision int8 --max-drop 2 --keep-fp32 stem.conv/Conv"
    assert beside == own.replace("int8 ", "int8 --target tensorrt ", 1)
    shipped = read_run(searched(run, precision="int8")).shipped
    assert shipped is not None
    assert shipped.model == "model.int8.onnx"
    (run / "verify.int8.json").unlink()
    assert read_run(run).shipped is None


def test_the_search_is_told_the_layers_that_stayed_fp32(tmp_path: Path) -> None:
    run = searched(started(tmp_path), precision="int8")
    changed(run / "search.json", "settings", "keep_fp32", to=["stem", "*depthwise*"])
    search, *_ = commands(run)
    assert "--precision int8" in search
    assert "--keep-fp32 stem --keep-fp32 '*depthwise*'" in search


def test_commands_say_all_that_an_export_was_told(tmp_path: Path) -> None:
    told = {"precision": "int8", "max_drop": 1.5, "calibration": "entropy",
            "calibration_images": 300, "calibration_batch": 4, "calibration_seed": 0,
            "keep_fp32": ["stem"], "equalize": True, "weights_by_mse": True,
            "analyze": True}  # fmt: skip
    run = quantized(whole(tmp_path), settings=told, kept_fp32=["stem", "head.conv/Conv"])
    changes = {"model": "model.int8.onnx", "precision": "int8"}
    *_, int8, _, _ = commands(run)
    *_, export, engine, _, _ = commands(built(run, **changes, onnx_sha256=""))
    options = (
        "--max-drop 1.5 --calibration entropy --calibration-images 300 --calibration-batch 4 "
        "--calibration-seed 0 --equalize --weights-by-mse --analyze --keep-fp32 stem "
        "--keep-fp32 head.conv/Conv"
    )
    assert int8 == f"fbn export again --precision int8 {options}"
    assert export == "fbn export again"  # the engine's command writes its model as well
    first = "fbn export again --target tensorrt --precision int8"
    assert engine == f"{first} {options} --build-only --batch 1"


def test_commands_of_an_older_export_say_what_it_wrote_down(tmp_path: Path) -> None:
    calibration = {"method": "percentile", "images": 300}
    run = quantized(whole(tmp_path), calibration=calibration, weights_by_mse=True, kept_fp32=[])
    options = "--max-drop 2 --calibration percentile --calibration-images 300 --weights-by-mse"
    assert f"fbn export again --precision int8 {options}" in commands(run)


def test_commands_leave_out_what_is_told_by_default() -> None:
    from fbn_deploy.pipeline.precision_settings import PrecisionSettings
    from fbn_deploy.report.sections.reproduce import PRECISION

    defaults = dataclasses.asdict(PrecisionSettings("int8"))
    assert defaults == {"precision": "int8", "keep_fp32": (), **PRECISION}


def searched_and_trained(tmp_path: Path) -> Path:
    """Trained by the recipe ``quick``, but for five epochs."""
    from fbn_deploy.retrain.recipes import RECIPES, as_json

    run = searched(started(tmp_path), budgets=(FLOPS, LATENCY))
    told = {**as_json(RECIPES["quick"]), "epochs": 5, "seed": 3, "teacher": None}
    return profiled(exported(trained(run, settings=told)))


def fbn(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fbn_deploy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_prints_the_verdict_or_one_json_object(tmp_path: Path) -> None:
    run = whole(tmp_path)
    said = fbn("report", str(run))
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == [READY, f"Report: {run / 'report.html'}"]
    printed = fbn("report", str(run), "--json")
    content = json.loads(printed.stdout)
    assert content["report"] == str(run / "report.html")
    assert content["verdict"]["state"] == "good"
    assert content["not_done"] == {
        "precision": f"fbn export {run} --precision int8",
        "engine": f"fbn export {run} --target tensorrt",
    }


def test_the_command_ends_with_one_message_where_a_file_is_damaged(tmp_path: Path) -> None:
    run = whole(tmp_path)
    (run / "search.json").write_text("[]")
    said = fbn("report", str(run), "--json")
    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr == (
        f"fbn: {run / 'search.json'} holds no JSON object; it was not written by fbn_deploy.\n"
    )
    assert not (run / "report.html").exists()


def test_a_report_needs_no_torch_and_no_numpy(tmp_path: Path) -> None:
    run = whole(tmp_path)
    code = (
        "import sys\n"
        "sys.modules.update(torch=None, numpy=None, safetensors=None, onnx=None)\n"
        f"sys.argv = ['fbn', 'report', {str(run)!r}]\n"
        "from fbn_deploy.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_records_of_every_kind_are_listed(tmp_path: Path) -> None:
    run = profiled(quantized(whole(tmp_path)), 0.8, "int8")
    text = page(run).text
    for name in ("confirmation on onnxruntime-cpu, process 3", "model.onnx", "model.int8.onnx"):
        assert name in text
    changed(run / "profile.json", "latency", to=record(disturbed=("a crowd",)).as_json())
    assert "a crowd" in page(run).text


def test_how_files_are_fed_stands_beside_them_where_the_export_said_it(tmp_path: Path) -> None:
    run = whole(tmp_path)
    assert "How to feed it" not in page(run).text
    said = {"layout": "NCHW, RGB", "resolution": 32, "mean": [0.491401, 0.482159, 0.446531]}
    changed(run / "verify.json", "input", to=said)
    text = page(run).text
    assert "How to feed itlayoutNCHW, RGBresolution32mean0.491401, 0.482159, 0.446531" in text
    assert "logitscat, dog" in text


@pytest.mark.parametrize("make", [started, whole])
def test_images_that_cannot_be_read_are_counted_and_listed(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    run, split = make(tmp_path), {"train": [0], "validation": [1], "test": [2]}
    write(run / "split.json", **split)
    assert "cannot be read" not in page(run).text
    unreadable = ["photos/cat/1.jpg (damaged, or no image)", "photos/dog/<2>.jpg (truncated)"]
    write(run / "split.json", **split, unreadable=unreadable)
    text = page(run).text
    assert f"2 images that cannot be read, in no split{''.join(unreadable)}" in text
