"""The commands, end to end on a tiny network, and what they say to wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TINY = ["--space", "nasbench201", "-o", "channels=4", "-o", "cells=1", "--resolution", "16"]
QUICK = ["--epochs", "0.5", "--candidates", "6", "--probe-size", "16", "--probe-batches", "2",
         "--finalists", "0"]  # fmt: skip


def fbn(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fbn_deploy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


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
