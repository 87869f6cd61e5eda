"""Mistakes that are told before any work, and destroy nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_pipeline import fbn

from fbn_deploy.checkpoint import load_tensors
from fbn_deploy.data import HeldOut, load_data
from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json, refuse_to_overwrite, write_json
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.pipeline.context import Given, open_run
from fbn_deploy.pipeline.deploy import verification_targets
from fbn_deploy.pipeline.profile import profile
from fbn_deploy.pipeline.search import search
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.pipeline.stored_search import stored_search
from fbn_deploy.progress import Silent
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.transform import timm_transform
from fbn_deploy.rundir import RunDir
from fbn_deploy.search.budgets import flops_budget, params_budget
from fbn_deploy.stopping import Stop, Stopped
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.training import SupernetSettings, check
from fbn_deploy.targets import target_named
from fbn_deploy.targets.openvino_cpu import OpenVinoCpu


def test_a_result_never_replaces_what_is_read_nor_another_result(tmp_path: Path) -> None:
    model, other = tmp_path / "model.onnx", tmp_path / "sub" / ".." / "model.onnx"
    (tmp_path / "sub").mkdir()
    model.write_text("a model")
    hard, soft = tmp_path / "hard", tmp_path / "soft"
    hard.hardlink_to(model)
    soft.symlink_to(model)
    for same in (other, hard, soft):
        with pytest.raises(FBNError, match="overwrite itself"):
            refuse_to_overwrite(model, same)
    with pytest.raises(FBNError, match="name of its own"):
        refuse_to_overwrite(tmp_path / "in", model, other)
    with pytest.raises(FBNError, match="is a directory"):
        refuse_to_overwrite(model, tmp_path)
    refuse_to_overwrite(model, tmp_path / "report.json", None)


def test_an_export_of_latencies_leaves_their_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path))
    cache = LatencyCache()
    done = fbn("latency", "export", str(cache.path))
    assert (done.returncode, "overwrite itself" in done.stderr) == (2, True)
    assert LatencyCache().records() == []


def test_a_bundle_leaves_the_file_of_its_space_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space = "def network(num_classes, resolution):\n    raise AssertionError\n"
    Path("mine.py").write_text(space)
    done = fbn("bundle", "--space", "./mine.py", "--out", str(tmp_path / "mine.py"))
    assert (done.returncode, "overwrite itself" in done.stderr) == (2, True)
    assert Path("mine.py").read_text() == space


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": float("nan")},
        {"epochs": float("inf")},
        {"learning_rate": float("nan")},
        {"label_smoothing": -0.1},
        {"label_smoothing": 1.0},
        {"shards": 7},
    ],
)
def test_numbers_that_train_no_supernet_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(FBNError, match=str(next(iter(wrong.values())))):
        check(replace(SupernetSettings(), **wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["epochs", "learning_rate", "warmup_epochs", "mixup"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_recipe_has_numbers(field: str, value: str) -> None:
    with pytest.raises(FBNError, match=f"{field} is a number, not {value}"):
        recipe("quick", {field: value})


def test_a_profile_of_a_run_is_not_written_over_its_model(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_text("a model")
    for subject in (tmp_path, model):
        done = fbn("profile", str(subject), "--out", str(model))
        assert done.returncode == 2
        assert "would overwrite itself" in done.stderr
    assert model.read_text() == "a model"


@pytest.mark.parametrize("name", ["run.json", "search.json", "subnet.safetensors"])
def test_a_profile_of_a_run_is_not_written_over_its_other_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.onnx").write_text("a model")
    (tmp_path / name).write_text("of the run")
    done = fbn("profile", str(tmp_path), "--out", str(tmp_path / name))
    assert done.returncode == 2
    assert f"{name} is a file of the run; choose another name" in done.stderr
    assert (tmp_path / name).read_text() == "of the run"


def test_a_profile_of_a_run_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text("measured before")
    done = fbn("profile", str(tmp_path), "--out", str(tmp_path / "profile.json"))
    assert "there is no run.json" in done.stderr, "Nothing was wrong with --out."


@pytest.mark.parametrize("asked", [("search", "--run", ""), ("export", ""), ("profile", "")])
def test_an_empty_name_is_not_the_current_directory(asked: tuple[str, ...]) -> None:
    done = fbn(*asked)
    assert done.returncode == 2
    assert done.stderr == "fbn: The name of the run directory is empty; the current one is '.'.\n"


@pytest.mark.parametrize(
    "said", [("--width", "nan"), ("-o", "width=inf"), ("--width=-inf",)], ids=str
)
def test_an_option_of_a_space_is_a_finite_number(said: tuple[str, ...], tmp_path: Path) -> None:
    done = fbn("search", *said, "--flops-budget", "10M", "--run", str(tmp_path / "run"))
    assert done.returncode == 2
    assert re.fullmatch(r"fbn: mobilenet option width is a finite number, not .*\n", done.stderr)
    assert not (tmp_path / "run").exists()


def test_a_letter_that_an_encoding_lacks_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = fbn("indicators")
    assert done.returncode == 0, done.stderr
    assert "\\u03b3" in done.stdout


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(FBNError, match="4 images"):
        SearchSettings((flops_budget("2M"),), probe_size=0).resolved()
    with pytest.raises(FBNError, match="'CPU'"):
        SearchSettings((flops_budget("2M"),), target="CPU").resolved()
    assert definition("nasbench201", 0).resolution == 0, "It is not taken for the default."


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--bn", "Fair"), "Did you mean 'fair'?"),
        (("--space", "nasbench201", "--resolution", "1"), "does not run on images of 1×1"),
        (("--space", "nasbench201", "-o", "channels=0"), "'channels': 0"),
    ],
)
def test_a_space_that_does_not_run_begins_no_run(
    wrong: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = fbn("train", *wrong, "--run", str(run))
    assert done.returncode == 2
    assert message in done.stderr
    assert not run.exists(), "A run.json would refuse the right value."


SPACE = """
from torch import nn
from fbn_deploy.supernet.choice import Choice


class Head(nn.Linear):
    def forward(self, x):
        return super().forward({mean})


def network(num_classes, resolution):
    ops = {{"a": {op}, "b": nn.Conv2d(3, 4, 1)}}
    return nn.Sequential(Choice("x", ops), {norm}, Head(4, num_classes))
"""
GOOD = {
    "mean": "x.mean((2, 3))",
    "op": "nn.Conv2d(3, 4, 3, padding=1)",
    "norm": "nn.BatchNorm2d(4)",
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "nn.BatchNorm2d(4, affine=False)"}, "affine=True"),
        ({"op": "nn.Sequential(Choice('y', {'c': nn.Conv2d(3, 4, 1)}))"}, "beside, not within"),
        ({"mean": "x.meen((2, 3))"}, r"does not run .*AttributeError: .*'meen'"),
    ],
)
def test_a_space_that_no_supernet_can_be_made_of_begins_no_run(
    wrong: dict[str, str], message: str, tmp_path: Path
) -> None:
    space, run = tmp_path / "mine.py", tmp_path / "run"
    space.write_text(SPACE.format(**GOOD | wrong))
    with pytest.raises(FBNError, match=message):
        open_run(run, Given(space=str(space), resolution=16), Silent())
    assert not (run / "run.json").exists()
    space.write_text(SPACE.format(**GOOD))
    open_run(run, Given(space=str(space), resolution=16), Silent())


WITH_A_DATACLASS = """
from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Stage:
    channels: int = {channels}


def network(num_classes, resolution):
    return nn.Linear(Stage().channels, num_classes)
"""


def test_a_space_file_may_define_dataclasses_and_another_one_may_have_its_name(
    tmp_path: Path,
) -> None:
    networks = []
    for channels in (4, 8):
        path = tmp_path / str(channels) / "mine.py"
        path.parent.mkdir()
        path.write_text(WITH_A_DATACLASS.format(channels=channels))
        networks.append(definition(str(path), 16))
    assert [each.network(3, 0).in_features for each in networks] == [4, 8]
    assert networks[0].module.Stage.__module__ != networks[1].module.Stage.__module__


WITH_LISTS = """
from torch import nn
from fbn_deploy.supernet.choice import Choice


def network(
    num_classes, resolution, kernels=(3, 5), widths=[1, 0.5], modes=("a",), pairs=((1, 2),)
):
    assert all(isinstance(each, tuple) for each in (kernels, modes, pairs, *pairs))
    ops = {str(k): nn.Conv2d(3, 4, k, padding=k // 2) for k in kernels}
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)]
    return nn.Sequential(Choice("x", ops), nn.BatchNorm2d(4), *head)
"""


@pytest.fixture
def with_lists(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(WITH_LISTS)
    return str(path)


@pytest.mark.parametrize("options", [{}, {"kernels": "5,7"}])
def test_a_run_of_a_space_with_tuples_goes_on_by_the_same_command(
    with_lists: str, options: dict[str, str], tmp_path: Path
) -> None:
    given = Given(space=with_lists, resolution=16, options=options)
    first = open_run(tmp_path / "run", given, Silent())
    for again in (given, Given()):
        found = open_run(tmp_path / "run", again, Silent())
        assert found.definition == first.definition
        assert found.identity == first.identity
    stored = read_json(tmp_path / "run" / "run.json")["configuration"]
    assert stored["space"] == first.definition.as_json(), "Also where a latency table says it."


def test_lists_of_a_space_are_given_by_commas(with_lists: str) -> None:
    asked = {"kernels": "3, 7", "widths": "1,0.25", "modes": "b,c"}
    found = definition(with_lists, 16, asked).options
    assert found == {
        "kernels": (3, 7), "widths": [1.0, 0.25], "modes": ("b", "c"), "pairs": ((1, 2),)
    }  # fmt: skip
    with pytest.raises(FBNError, match="option kernels is a int, not 'three'"):
        definition(with_lists, 16, {"kernels": "3,three"})
    with pytest.raises(FBNError, match=r"option pairs is .* only lists of numbers or of texts"):
        definition(with_lists, 16, {"pairs": "1,2"})


def test_an_option_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def network(num_classes, resolution, op=print):\n    pass\n")
    with pytest.raises(
        FBNError, match=r"must be numbers, texts, lists or None: .*JSON serializable"
    ):
        definition(str(path), 16)


def test_a_space_file_that_fails_leaves_no_half_of_a_module(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(FBNError, match=r"mine\.py failed to run: ZeroDivisionError"):
        definition(str(path), 16)
    assert set(sys.modules) == before


def test_a_space_file_is_the_same_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SPACE.format(**GOOD))
    open_run(tmp_path / "run", Given(space="./mine.py", resolution=16), Silent())
    for name in ("./mine.py", "mine.py", str(tmp_path / "mine.py")):
        context = open_run(tmp_path / "run", Given(space=name), Silent())
        assert context.definition.resolution == 16


@pytest.mark.parametrize("option", ["width", "**kw", "*more"])
def test_options_of_a_space_without_defaults_are_refused_by_name(
    option: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"def network(num_classes, resolution, {option}):\n    pass\n")
    with pytest.raises(FBNError, match=f"defaults, which these lack: {re.escape(option)}"):
        definition(str(path), 16)


def test_other_settings_are_named_one_by_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    configuration = {"space": {"name": "darts", "options": {"cells": 8}}, "seed": 0}
    run.start({**configuration, "data": {"spec": "/images", "fingerprint": "a"}}, "a CPU")
    other = {"space": {"name": "darts", "options": {"cells": 20}}, "seed": 0}
    with pytest.raises(FBNError, match=r"\(space options cells: 8 there, 20 asked\)"):
        run.start({**other, "data": {"spec": "/images", "fingerprint": "a"}}, "a CPU")
    with pytest.raises(FBNError, match="begun with other images than /images holds now"):
        run.start({**configuration, "data": {"spec": "/images", "fingerprint": "b"}}, "a CPU")


def test_the_settings_of_another_search_are_named_one_by_one(tmp_path: Path) -> None:
    given = Given(space="nasbench201", resolution=16, options={"channels": 4, "cells": 1})
    context = open_run(tmp_path, given, Silent())
    settings = SearchSettings(
        (flops_budget("2M"),), candidates=2, algorithm="random", probe_size=8, indicator="params"
    )
    found = search(context, settings)
    assert search(context, settings) == found
    for changes, message in (
        ({"threads": 2, "probe_size": 4}, "probe_size: 8 there, 4 asked; threads: 1 there, 2"),
        ({"indicator": "flops"}, "indicator: params there, flops asked"),
        (
            {"budgets": (flops_budget("3M"), params_budget("1M"))},
            "budgets: 2M FLOPs there, 3M FLOPs, 1M parameters asked",
        ),
    ):
        with pytest.raises(FBNError, match=rf"another search \({message}"):
            search(context, replace(settings, **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no search result of schema 1"),
        ({"schema": 1}, "there is no settings"),
        ({"schema": 1, "settings": {"batch": 1}}, "settings lacks algorithm, budgets"),
    ],
)
def test_a_search_result_that_lost_a_part_is_refused(
    content: dict[str, object], message: str, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(FBNError, match=r"no search\.json yet"):
        stored_search(run)
    write_json(run.search, content)
    with pytest.raises(FBNError, match=message):
        stored_search(run)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"fingerprint": "a", "train": [0], "validation": [1]},
        {"fingerprint": "a", "train": [0], "validation": [1], "test": [-1]},
        {"fingerprint": "a", "train": [0], "validation": [1], "test": ["2"]},
        {"fingerprint": 1, "train": [0], "validation": [1], "test": [2]},
    ],
)
def test_a_split_that_lost_a_part_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(FBNError, match="numbers of train, validation, test"):
        HeldOut.from_json(content)


@pytest.mark.parametrize(
    "changes",
    [{"std": None}, {"mean": [0.5, 0.5]}, {"mean": "0.5"}, {"std": [0.2, 0.2, 0]},
     {"mean": [0.5, 0.5, float("nan")]}],
)  # fmt: skip
def test_a_split_with_a_wrong_normalisation_is_refused(changes: dict[str, object]) -> None:
    whole = {"fingerprint": "a", "train": [0], "validation": [1], "test": [2],
             "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}  # fmt: skip
    assert HeldOut.from_json(whole).as_json() == whole
    with pytest.raises(FBNError, match="mean and std are three numbers each"):
        HeldOut.from_json(whole | changes)


def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    done = fbn("bundle", "--out", str(file / "blocks.fbn"))
    assert done.returncode == 2
    assert f"{file} is no directory to write in" in done.stderr
    assert done.stdout == ""


def test_a_policy_that_timm_does_not_know() -> None:
    images = load_data("digits", resolution=32, seed=0)
    chosen = recipe("quick", {"augmentation": "timm", "auto_augment": "bla"})
    with pytest.raises(FBNError, match="auto_augment='bla'"):
        timm_transform(chosen, images)


@pytest.mark.parametrize("named", [True, False])
def test_a_stopped_command_says_how_to_go_on(tmp_path: Path, named: bool) -> None:
    run = tmp_path / "run"
    main = (  # what runs in the background ignores Ctrl-C, and so do its children
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from fbn_deploy.cli import main; main()"
    )
    command = [sys.executable, "-c", main, "train", "--epochs", "1000"]
    command += ["--run", str(run)] if named else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "steps" in line:
                break
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    how = ""
    if not named:
        (run,) = (tmp_path / "runs").iterdir()
        how = f" with --run runs/{run.name}"
    assert (f"Run directory: runs/{run.name}\n" in said) is not named
    assert error.endswith(f"fbn: stopped; the same command{how} goes on from here.\n")
    assert "Traceback" not in error
    _, about = load_tensors(RunDir(run).supernet_checkpoint)
    assert about["step"] > 0, "Saved at once, not half a minute later."


def test_a_target_without_a_latency_budget_is_where_the_winner_is_profiled() -> None:
    settings = SearchSettings((flops_budget("2M"),), target="onnxruntime-cuda")
    assert settings.resolved().target == "onnxruntime-cuda"
    found = {"best": {"confirmed": {}}, "settings": {"target": "openvino-cpu"}}
    if target_named("openvino-cpu").missing() is None:
        names = [target.name for target in verification_targets(found, print)]
        assert names == ["onnxruntime-cpu", "openvino-cpu"]
    found["settings"]["target"] = "onnxruntime-cuda"
    cuda = target_named("onnxruntime-cuda")
    assert cuda.missing() or len(verification_targets(found, print)) == 2
    with pytest.raises(FBNError, match="No precision 'INT8'"):
        profile(Path("."), precision="INT8")


def test_an_export_where_a_confirmed_target_is_missing_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OpenVinoCpu, "missing", lambda self: "there is no openvino.")
    found = {
        "best": {"confirmed": {"openvino-cpu": {}, "onnxruntime-cpu": {}}},
        "settings": {"target": "openvino-cpu"},
    }
    said: list[str] = []
    targets = verification_targets(found, said.append)
    assert [target.name for target in targets] == ["onnxruntime-cpu"]
    assert said == [
        "Not verified on openvino-cpu, where the budget was confirmed: there is no openvino."
    ]


def test_ctrl_c_ends_at_once_or_with_the_step_and_pressed_twice_at_once() -> None:
    stop = Stop()
    with pytest.raises(Stopped):
        stop.pressed()
    stop.waits = True
    stop.pressed()
    assert stop.asked
    with pytest.raises(Stopped):
        stop.pressed()


def test_a_table_of_another_space_begins_no_run(tmp_path: Path) -> None:
    table, run = tmp_path / "table.csv", tmp_path / "run"
    table.write_text("arch,accuracy\nnothing,1\n")
    columns = ("--architecture-column", "arch", "--accuracy-column", "accuracy")
    done = fbn(
        "bench", "--table", str(table), *columns, "--space", "nasbench201", "--run", str(run)
    )
    assert done.returncode == 2, done.stdout
    assert "nothing" in done.stderr
    assert not run.exists()
