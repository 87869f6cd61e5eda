"""A run goes on after its images moved, from any directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_data_scale import folder
from test_pipeline import fbn

from fbn_deploy.errors import FBNError
from fbn_deploy.pipeline.context import Given, open_run
from fbn_deploy.progress import Silent
from fbn_deploy.rundir import RunDir


def begun(tmp_path: Path, data: Path) -> RunDir:
    options = {"channels": 4, "cells": 1}
    given = Given(space="nasbench201", resolution=8, options=options, data=str(data))
    return open_run(tmp_path / "run", given, Silent()).run


def test_a_run_goes_on_with_its_images_where_they_are_now(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", 12), tmp_path / "new"
    run = begun(tmp_path, old)
    before, split = json.loads(run.run.read_text()), run.split.read_bytes()
    old.rename(new)
    with pytest.raises(FBNError, match=r"no such folder.*\nIf the run's images moved, say"):
        open_run(run.path, Given(), Silent(), create=False)
    with pytest.raises(FBNError, match=r"other settings \(seed: 0 there, 1 asked; supernet"):
        open_run(run.path, Given(data=str(new), seed=1), Silent())
    assert json.loads(run.run.read_text()) == before
    open_run(run.path, Given(data=str(new)), Silent(), create=False)
    before["configuration"]["data"]["spec"] = str(new)
    assert json.loads(run.run.read_text()) == before
    assert run.split.read_bytes() == split
    open_run(run.path, Given(), Silent(), create=False)


def test_other_images_are_no_moved_ones(tmp_path: Path) -> None:
    run = begun(tmp_path, folder(tmp_path / "old", 12))
    before, other = run.run.read_bytes(), folder(tmp_path / "other", 13)
    with pytest.raises(FBNError, match=f"begun with other images than {other} holds"):
        open_run(run.path, Given(data=str(other)), Silent())
    assert run.run.read_bytes() == before


def test_commands_that_go_on_from_a_run_are_told_where_its_images_are(tmp_path: Path) -> None:
    run = begun(tmp_path, folder(tmp_path / "old", 12)).path
    (tmp_path / "old").rename(tmp_path / "new")
    for command, next_step in (("retrain", "run fbn search"), ("export", "run fbn retrain")):
        done = fbn(command, str(run), "--data", str(tmp_path / "new"))
        assert next_step in done.stderr, "The images were found."


def test_a_folder_with_a_colon_in_its_name_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "my:photos", 12)
    monkeypatch.chdir(tmp_path)
    run = begun(tmp_path, Path("my:photos"))
    monkeypatch.chdir(run.path)
    open_run(run.path, Given(), Silent(), create=False)
