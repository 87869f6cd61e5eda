"""The report of a run: what it says, what it refuses, and that nothing in a run can break it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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

from fbn_deploy.errors import FBNError
from fbn_deploy.report.page import write_report
from fbn_deploy.report.verdict import Verdict

NASTY = "<img src=x onerror=alert(1)>\"'&\u202e</style></svg>"


class Page(HTMLParser):
    """A page taken apart: its texts, and every element with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def page(run: Path) -> Page:
    path, _, _ = write_report(run)
    found = Page(path.read_text(encoding="utf-8"))
    assert not found.open, "An element that is not closed."
    return found


def verdict(run: Path) -> Verdict:
    return write_report(run)[2]


def changed(path: Path, *keys: str | int, to: Any) -> None:
    """Replaces one value in a JSON file."""
    content = json.loads(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    path.write_text(json.dumps(content))


def test_a_run_that_holds_everywhere_is_ready_to_ship(tmp_path: Path) -> None:
    found = verdict(whole(tmp_path))
    assert found.headline == "Ready to ship"
    assert {each.state for each in found.findings} == {"good"}


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


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FBNError, match="no run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_all_files_that_cannot_be_read_are_named_at_once_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    run = whole(tmp_path)
    (run / "verify.json").write_text("{")
    changed(run / "profile.json", "schema", to=7)
    changed(run / "search.json", "best", "costs", "flops", to="many")
    before = write_before(run)
    with pytest.raises(FBNError) as raised:
        write_report(run)
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    assert (
        "search.json is not what fbn_deploy writes: best.costs.flops should be a number"
        in (lines[0])
    )
    assert "verify.json" in lines[1]
    assert "not JSON" in lines[1]
    assert "profile.json has the schema 7; this version of fbn_deploy reads 1" in lines[2]
    assert (run / "report.html").read_text() == before
    assert not list(run.glob(".*.tmp"))


def write_before(run: Path) -> str:
    (run / "report.html").write_text("an earlier report")
    return "an earlier report"


def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole(tmp_path)
    before = write_before(run)

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FBNError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_text() == before
    assert not list(run.glob(".*.tmp"))


def test_damaged_weights_are_one_message(tmp_path: Path) -> None:
    run = whole(tmp_path)
    (run / "subnet.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(FBNError, match=r"subnet\.safetensors is damaged"):
        write_report(run)


@pytest.mark.parametrize(
    ("disturbed", "upper_ms", "headline"),
    [
        ((), 1.9, "Ready to ship"),
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
    assert verdict(run).headline == "Look before you ship: latency budget on onnxruntime-cpu"


def test_a_run_without_a_latency_budget_has_its_counts(tmp_path: Path) -> None:
    run = profiled(exported(trained(searched(started(tmp_path), budgets=(FLOPS,)))))
    found = page(run)
    assert "39M FLOPs, counted; the budget is 40M FLOPs." in found.text
    assert "Rank against multiply-adds" in found.text
    assert "no budget was set for these conditions" in found.text
    assert verdict(run).headline == "Ready to ship"


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
    assert "No curve: this recipe keeps the last weights" in page(run).text
    trained(run, validation=((1, 0.5), (2, 0.8), (3, 0.7)))
    text = page(run).text
    assert "the weights of epoch 2 were kept" in text
    assert "epoch 3: 70.00 %" in text


def test_a_training_that_was_stopped_says_where_it_stands(tmp_path: Path) -> None:
    run = searched(started(tmp_path))
    about = {"step": 120, "seconds": 30.0, "kept": {"epochs": [[1, 0.5], [2, 0.6]]}}
    header = json.dumps({"__metadata__": {"about": json.dumps(about)}}).encode()
    checkpoint = len(header).to_bytes(8, "little") + header
    (run / "subnet.partial.safetensors").write_bytes(checkpoint)
    text = page(run).text
    assert "stands at step 120" in text
    assert f"fbn retrain {run}" in text


def test_a_file_of_another_training_is_seen_by_its_accuracy(tmp_path: Path) -> None:
    run = whole(tmp_path)
    trained(run, accuracy=0.95)
    assert verdict(run).headline == "Look before you ship: verification"


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
    assert verdict(run).headline == "Ready to ship"
    quantized(run, latency_ms=3.0)
    assert "2.00 times as slow as fp32 on onnxruntime-cpu" in page(run).text


def test_an_engine_is_told_with_its_story(tmp_path: Path) -> None:
    run = built(whole(tmp_path), verified=True)
    text = page(run).text
    assert "gpu A GPU, compute_capability 8, 6" in text
    assert "The builder warned: a warning" in text
    assert verdict(run).headline == "Ready to ship"


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


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    run = whole(tmp_path)
    content = json.loads((run / "search.json").read_text())
    for key in ("survey", "tally", "pareto", "latency", "settings", "timing", "data", "space"):
        del content[key]
    for each in (*content["candidates"], content["best"]):
        del each["costs"]["latency_ms_by_target"]
    for key in ("text", "meets_budget"):
        del content["best"][key]
    confirmed = content["best"]["confirmed"]["onnxruntime-cpu"]
    del confirmed["upper_ms"], confirmed["slowdown"]
    for each in confirmed["records"]:
        for key in ("best_arithmetic_us", "best_reference_us", "crowded", "cores",
                    "slow_reference_us"):  # fmt: skip
            del each[key]
        del each["conditions"]["process"]
    write(run / "search.json", **content)
    (run / "space.json").unlink()
    text = page(run).text
    assert "stage1.0=mb3_k3,stage1.1=identity" in text
    assert "Confirmed 1.500 ms, at most 1.500 ms" in text


def test_commands_that_do_it_again_can_be_read_by_the_commands(tmp_path: Path) -> None:
    text = page(quantized(searched_and_trained(tmp_path))).text
    assert "--latency-budget onnxruntime-cpu:2ms" in text
    assert "--flops-budget 40M" in text
    assert "--seed 3" in text
    assert "fbn retrain again --recipe quick --set epochs=5" in text
    assert "fbn export again --precision int8 --max-drop 2" in text


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
    assert said.stdout.splitlines() == ["Ready to ship", f"Report: {run / 'report.html'}"]
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


PLACES = ("search.json", "verify.json", "profile.json", "run.json", "space.json",
          "verify.int8.json", "model.tensorrt.engine.json")  # fmt: skip
VALUES = (None, "x", -1, 0, [], {}, True, 1e40, [1], ["a"], {"a": 1}, {"a": {}}, "<b>")


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_stands_in_a_file_is_shown_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = built(quantized(whole(tmp_path_factory.mktemp("run"))))
    path = run / data.draw(st.sampled_from(PLACES))
    content = json.loads(path.read_text())
    place = data.draw(st.sampled_from(sorted(places(content), key=str)))
    path.write_text(json.dumps(replaced(content, place, data.draw(st.sampled_from(VALUES)))))
    try:
        page(run)
        refused = ""
    except FBNError as error:
        refused = str(error)
    assert (run / "report.html").exists() == (not refused)
    assert not refused or path.name in refused


def places(content: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value but the outermost."""
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


def replaced(content: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """``content`` with ``value`` at ``place``."""
    found = copy.deepcopy(content)
    part = found
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return found


def test_records_of_every_kind_are_listed(tmp_path: Path) -> None:
    run = profiled(quantized(whole(tmp_path)), 0.8, "int8")
    text = page(run).text
    for name in ("confirmation on onnxruntime-cpu, process 3", "model.onnx", "model.int8.onnx"):
        assert name in text
    changed(run / "profile.json", "latency", to=record(disturbed=("a crowd",)).as_json())
    assert "a crowd" in page(run).text
