"""The commands that list what there is, and the one that looks at the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_pipeline import fbn

from fbn_deploy.indicators import COMPOSITES
from fbn_deploy.retrain.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]


def plugins(folder: str) -> set[str]:
    files = {path.stem for path in (ROOT / folder).glob("[!_]*.py")}
    return {name.replace("_", "-") for name in files} if folder != "searchspaces" else files


TARGETS = plugins("fbn_deploy/targets")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("spaces", plugins("searchspaces")),
        ("targets", TARGETS),
        ("recipes", set(RECIPES)),
        ("indicators", plugins("fbn_deploy/indicators") | set(COMPOSITES)),
    ],
)
def test_a_list_has_a_line_with_a_description_for_each(command: str, names: set[str]) -> None:
    done = fbn(command)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines.keys() == names
    assert all(len(text) > 10 for text in lines.values())


def test_doctor_says_versions_devices_and_what_each_target_lacks() -> None:
    done = fbn("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"python", "torch", "onnx"} <= found["versions"].keys()
    assert "cores" in found["devices"]["cpu"]
    assert found["targets"].keys() == TARGETS
    assert found["targets"]["onnxruntime-cpu"] == {"ready": True, "missing": None}
    for target in found["targets"].values():
        assert target["ready"] == (target["missing"] is None)
    shown = fbn("doctor")
    assert shown.returncode == 0, shown.stderr
    for name in [*TARGETS, *found["versions"], *found["devices"]]:
        assert name in shown.stdout
