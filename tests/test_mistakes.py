"""Mistakes that are told before any work, and destroy nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_pipeline import fbn

from fbn_deploy.errors import FBNError
from fbn_deploy.files import refuse_to_overwrite
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.search.budgets import flops_budget
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.training import SupernetSettings, check


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
