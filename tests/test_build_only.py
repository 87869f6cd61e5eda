"""``fbn export RUN --target tensorrt-rtx --build-only``: an engine from a machine without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_export_precision import QUICK, TINY, fbn

from fbn_deploy.files import sha256_of
from fbn_deploy.targets.tensorrt_rtx import TARGET as RTX

PROBLEM = RTX.cannot_build()
pytestmark = [
    pytest.mark.skipif(PROBLEM is not None, reason=f"builds no engines: {PROBLEM}"),
    pytest.mark.skipif(RTX.missing() is None, reason="there is a GPU that runs these engines"),
]
BUILD = ["--target", RTX.name, "--build-only"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a retrained network that was not exported."""
    path = tmp_path_factory.mktemp("run") / "run"
    for command in (
        ["search", *TINY, *QUICK, "--flops-budget", "2M", "--run", str(path)],
        ["retrain", str(path), "--epochs", "1"],
    ):
        done = fbn(*command)
        assert done.returncode == 0, done.stderr
    return path


def test_what_the_target_cannot_build_is_refused_before_any_work(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    done = fbn("export", str(run), *BUILD, "--version-compatible")
    assert done.returncode == 2
    assert "leave --version-compatible out" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_an_engine_is_built_beside_its_model_and_says_that_it_was_not_run(run: Path) -> None:
    done = fbn("export", str(run), *BUILD)
    assert done.returncode == 0, done.stderr
    assert "built, not run: no GPU here" in " ".join(done.stdout.split())
    engine = run / "model.tensorrt-rtx.engine"
    story = json.loads((run / "model.tensorrt-rtx.engine.json").read_text())
    assert story["sha256"] == sha256_of(engine)
    assert story["onnx_sha256"] == sha256_of(run / "model.onnx")
    assert (story["precision"], story["verification"]) == ("fp32", None)
