"""A search that is killed with SIGKILL, again and again, ends like one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fbn_deploy.rundir import RunDir

# Every step of the training is saved, so that it can be killed with a checkpoint; finalists are
# trained for few steps.
FBN = """
from functools import partial
from fbn_deploy import loop
loop.SAVE_EVERY_S = -1.0
from fbn_deploy.pipeline import finalists
finalists.TrialSettings = partial(finalists.TrialSettings, steps=20)
from fbn_deploy.cli import main
main()
"""
COMMAND = [
    sys.executable, "-c", FBN, "search", "--space", "nasbench201", "-o", "channels=4",
    "-o", "cells=1", "--resolution", "16", "--flops-budget", "2M", "--epochs", "3",
    "--candidates", "30", "--probe-size", "32", "--finalists", "3",
]  # fmt: skip


def result(run: RunDir) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.search.read_text())
    content.pop("timing")
    return content


def scored(run: RunDir) -> list[str]:
    return run.scores.read_text().splitlines() if run.scores.exists() else []


def killed_when(reached: Callable[[], bool], run: RunDir) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--run", str(run.path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end_s = time.monotonic() + 120
    try:
        while not reached():
            assert process.poll() is None, "The search ended before it could be killed."
            assert time.monotonic() < end_s, "The search does not come so far."
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_search_ends_with_the_result_of_an_unbroken_one(tmp_path: Path) -> None:
    """Killed while it trains, as it has trained, twice while it scores, and among finalists."""
    whole, broken = RunDir(tmp_path / "whole"), RunDir(tmp_path / "broken")
    command = [*COMMAND, "--run", str(whole.path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    killed_when(broken.supernet_checkpoint.exists, broken)
    assert not broken.supernet.exists()
    killed_when(broken.supernet.exists, broken)
    for count in (5, 20):
        killed_when(lambda n=count: len(scored(broken)) >= n, broken)
    killed_when(lambda: any("trial_loss" in line for line in scored(broken)), broken)
    assert not broken.search.exists()
    last = subprocess.run(
        [*COMMAND, "--run", str(broken.path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert last.returncode == 0, last.stderr
    assert f"{broken.supernet}, found there" in last.stderr
    assert result(whole) == result(broken)
