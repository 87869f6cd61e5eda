"""A search that is killed with SIGKILL, again and again, ends like one that was not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = [
    sys.executable, "-m", "fbn_deploy", "search", "--space", "nasbench201", "-o", "channels=4",
    "-o", "cells=1", "--resolution", "16", "--flops-budget", "2M", "--epochs", "1",
    "--candidates", "40", "--probe-size", "32", "--finalists", "3",
]  # fmt: skip


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "search.json").read_text())
    content.pop("timing")
    return content


def test_a_killed_search_ends_with_the_result_of_an_unbroken_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*COMMAND, "--run", str(whole)], check=True, capture_output=True, timeout=300)
    rng, kills = random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen(
            [*COMMAND, "--run", str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=rng.uniform(1.0, 3.5))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    last = subprocess.run(
        [*COMMAND, "--run", str(broken)], check=False, capture_output=True, text=True, timeout=300
    )
    assert kills, "No run was long enough to be killed."
    assert last.returncode == 0, last.stderr
    assert result(whole) == result(broken)
