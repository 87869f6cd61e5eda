"""The commands, end to end on a tiny network, and what they say to wrong input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_readme import example_space

TINY = ["--space", "nasbench201", "-o", "channels=4", "-o", "cells=1", "--resolution", "16"]
QUICK = ["--epochs", "0.5", "--candidates", "6", "--probe-size", "16", "--probe-batches", "2",
         "--finalists", "0"]  # fmt: skip

# A smaller survey, a search that soon gives up, candidates measured in milliseconds, and a careful
# measurement no longer than a candidate's usually is.
MEASURING = """
import dataclasses
from fbn_deploy.pipeline import search
search.SURVEYED = 3
from fbn_deploy.search import screen
screen.FEW = 3
from fbn_deploy.latency import protocol
protocol.PROTOCOLS["confirm"] = protocol.QUICK
protocol.PROTOCOLS["quick"] = dataclasses.replace(
    protocol.QUICK, warmup_s=0.001, round_s=0.001, limit_s=0.01, patience_s=0.0
)
from fbn_deploy.cli import main
main()
"""


def fbn(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fbn_deploy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def measuring(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``fbn`` that measures in moments, with a latency cache of its own."""
    return subprocess.run(
        [sys.executable, "-c", MEASURING, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"FBN_CACHE_DIR": str(cache)},
    )


def without_timing(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    content.pop("timing")
    return content


def test_help_imports_no_torch() -> None:
    code = "import sys, fbn_deploy.cli; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_deploy_ends_with_a_verified_model_and_the_same_seed_searches_the_same(
    tmp_path: Path,
) -> None:
    budget = ["--flops-budget", "2M"]
    done = fbn("deploy", *TINY, *QUICK, *budget, "--retrain-epochs", "1", "--run",
               str(tmp_path / "a"), "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["verification"]["results"][0]["passed"]
    assert summary["verification"]["batchnorms"]["after"] == 0
    assert summary["best"]["costs"]["flops"] <= 2e6
    assert (tmp_path / "a" / "model.onnx").stat().st_size > 0
    assert json.loads((tmp_path / "a" / "profile.json").read_text())["schema"] == 1
    report = (tmp_path / "a" / "report.html").read_text()
    assert summary["report"] == str(tmp_path / "a" / "report.html")
    assert summary["best"]["text"].partition("+")[0] in report
    assert "Not done yet" in report
    again = fbn("search", *TINY, *QUICK, *budget, "--run", str(tmp_path / "b"))
    assert again.returncode == 0, again.stderr
    assert without_timing(tmp_path / "a" / "search.json") == without_timing(
        tmp_path / "b" / "search.json"
    )
    supernet = tmp_path / "b" / "supernet.safetensors"
    supernet.write_bytes(supernet.read_bytes()[:1000])
    (tmp_path / "b" / "search.json").unlink()
    damaged = fbn("search", *budget, *QUICK, "--run", str(tmp_path / "b"))
    assert damaged.returncode == 2
    assert "supernet.safetensors is damaged" in damaged.stderr
    assert "Traceback" not in damaged.stderr
    assert supernet.stat().st_size == 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--space", "mobil", "--flops-budget", "2M"], "Did you mean 'mobilenet'?"),
        (["--latency-budget", "10"], "Cannot read the latency budget '10'"),
        ([], "A search needs a budget"),
        (["--flops-budget", "2M", "--data", "/no/such/folder"], "there is no such folder"),
        (["--flops-budget", "2M", "--seed", "-1"], "A seed is from 0"),
        (["--flops-budget", "2M", "-o", "size=3"], "No option of the search space"),
    ],
)
def test_wrong_input_gets_one_message_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = fbn("search", "--run", str(tmp_path / "run"), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_nothing_fits_is_exit_code_3_and_names_the_nearest(tmp_path: Path) -> None:
    done = fbn("search", *TINY, *QUICK, "--flops-budget", "1k", "--run", str(tmp_path / "run"))
    assert done.returncode == 3
    assert "lightest" in done.stderr


def under_latency(folder: Path, budget: str, *more: str) -> subprocess.CompletedProcess[str]:
    space = ["--space", str(example_space(folder)), "-o", "channels=4", "--resolution", "16"]
    return measuring(folder, "deploy", *space, *QUICK, "--epochs", "0", "--retrain-epochs", "1",
                     "--target", "onnxruntime-cpu", "--latency-budget", budget, "--run",
                     str(folder / "run"), *more)  # fmt: skip


def test_deploy_under_a_latency_budget_ends_with_a_model_that_was_confirmed_on_its_target(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    done = under_latency(tmp_path, "1s", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    best = summary["best"]
    assert best["meets_budget"] is True
    assert best["confirmed"]["onnxruntime-cpu"]["upper_ms"] <= 1000
    assert 0 < best["costs"]["latency_ms"]["measured"] <= 1000
    (verified,) = summary["verification"]["results"]
    assert verified["target"] == "onnxruntime-cpu"
    assert verified["passed"]
    assert (run / "model.onnx").stat().st_size > 0
    profile = json.loads((run / "profile.json").read_text())
    assert profile == summary["profile"]
    assert profile["latency"]["conditions"]["target"] == "onnxruntime-cpu"
    assert 0 < profile["latency"]["value_ms"] <= 1000
    assert profile["layers"]
    budgets = json.loads((run / "search.json").read_text())["budgets"]
    assert budgets == [
        {"kind": "latency", "limit": 1000.0, "unit": "ms", "target": "onnxruntime-cpu"}
    ]
    assert "onnxruntime-cpu" in (run / "report.html").read_text()


def test_a_latency_that_no_network_reaches_is_exit_code_3_and_deploys_nothing(
    tmp_path: Path,
) -> None:
    done = under_latency(tmp_path, "1us")
    assert done.returncode == 3, done.stderr
    # the limit, or a little less where careful measurements take longer
    said = r"None of \d+ architectures meets 0\.00\d+ ms on onnxruntime-cpu; the fastest one found"
    assert re.search(said, done.stderr)
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"search.json", "subnet.safetensors", "model.onnx", "verify.json"}
