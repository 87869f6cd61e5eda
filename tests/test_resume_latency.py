"""A search under a latency budget that is killed with SIGKILL ends like one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fbn_deploy import processes
from fbn_deploy.latency.cache import FILE, LatencyCache
from fbn_deploy.latency.record import LatencyRecord

pytestmark = pytest.mark.alone  # Its budgets lie close to latencies that are measured.

# Neither here nor in the processes that confirm is anything disturbed or in a crowd, which another
# search would measure again: the test is about kills, not care.
QUIET = """
from fbn_deploy.latency import crowding, timing
timing._MAX_WAITED = timing._MAX_PRESSURE = timing._MAX_STEAL = timing._MAX_SPREAD = 1e9
crowding.CROWDED = 1e9
timing.MIN_ROUNDS = 0
"""
# A smaller survey, and a confirmation under the quick protocol.
FBN = f"""{QUIET}
from fbn_deploy import processes
processes._PROGRAM = {QUIET + processes._PROGRAM!r}
from fbn_deploy.pipeline import search
search.SURVEYED = 14
from fbn_deploy.latency.meter import LatencyMeter
LatencyMeter.confirm_in_fresh_process.__kwdefaults__["protocol"] = "quick"
from fbn_deploy.cli import main
main()
"""
# The same with latencies predicted from a table of few networks.
PREDICTING = (
    """
from fbn_deploy.pipeline import parts

parts.parts_of.__kwdefaults__["probes"] = 10
"""
    + FBN
)
SEARCH = [
    "search", "--space", "nasbench201", "-o", "channels=4", "-o",
    "cells=1", "--resolution", "16", "--target", "onnxruntime-cpu",
    "--candidates", "8", "--finalists", "0", "--probe-size", "16", "--probe-batches", "2",
]  # fmt: skip
TIMEOUT_S = 900.0  # on a core that is crowded a measurement takes twice as long


class Searches:
    """Searches that share one latency cache."""

    def __init__(self, folder: Path, program: str = FBN, *options: str) -> None:
        self.folder = folder
        self.command = [sys.executable, "-c", program, *SEARCH, *options]
        self.cache = folder / "cache"

    def records(self) -> list[LatencyRecord]:
        return LatencyCache(self.cache / FILE).records()

    def candidates(self) -> list[str]:
        """When each was measured; not confirmations, which a search in a crowd forgets."""
        return [each.date for each in self.records() if each.conditions.process == 0]

    def start(self, name: str, budget: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, "--latency-budget", budget, "--run", str(self.folder / name)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"FBN_CACHE_DIR": str(self.cache)},
        )

    def result(self, name: str, budget: str) -> dict[str, Any]:
        """``search.json`` of a run that comes to its end, apart from its timing and from what it
        measured for its table itself."""
        process = self.start(name, budget)
        _, error = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, error
        content: dict[str, Any] = json.loads((self.folder / name / "search.json").read_text())
        content.pop("timing")
        for about in content["latency"].values():
            about.pop("measurements", None)
            about.pop("seconds", None)
        return content

    def kill_when(self, reached: Callable[[list[LatencyRecord]], bool], process: Any) -> bool:
        """Kills ``process`` when the cache has come so far; False if it ended before."""
        end_s = time.monotonic() + TIMEOUT_S
        while not reached(self.records()):
            assert time.monotonic() < end_s, "The search does not come so far."
            if process.poll() is not None:
                return False
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True


def test_a_killed_search_under_a_latency_budget_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    """Killed twice in the survey, then while it searches, and in the confirmation; each time a
    moment at random may pass first. Three of four surveyed networks meet the budget."""
    searches, rng = Searches(tmp_path), random.Random(0)

    def seen(count: int, confirmed: int = 0) -> Callable[[list[LatencyRecord]], bool]:
        def reached(records: list[LatencyRecord]) -> bool:
            confirmations = sum(record.conditions.process > 0 for record in records)
            if len(records) < count or confirmations < confirmed:
                return False
            time.sleep(rng.uniform(0.0, 0.4))
            return True

        return reached

    assert searches.kill_when(seen(9), searches.start("not binding", "1s"))
    values_ms = sorted(record.value_ms for record in searches.records())
    budget = f"{values_ms[3 * len(values_ms) // 4] * 1e3:.0f}us"
    for reached in (seen(12), seen(17), seen(0, confirmed=1)):
        searches.kill_when(reached, searches.start("broken", budget))
    broken = searches.result("broken", budget)
    assert any(record.conditions.process == 1 for record in searches.records())
    candidates = searches.candidates()
    assert searches.result("whole", budget) == broken
    assert searches.candidates() == candidates, "The unbroken search measured something anew."


def test_a_search_that_predicts_ends_the_same_when_killed_while_it_measures_its_table(
    tmp_path: Path,
) -> None:
    searches = Searches(tmp_path, PREDICTING, "--predictor", "table")
    for count in (5, 20):
        process = searches.start("broken", "1s")
        assert searches.kill_when(lambda records, n=count: len(records) >= n, process)
    broken = searches.result("broken", "1s")
    about = broken["latency"]["onnxruntime-cpu"]
    assert about["predictor"] == "table"
    assert about["probes"] == 10
    assert about["quality"]["probes"] == 8  # all but the shortest and the longest
    for candidate in broken["candidates"]:
        latency = candidate["costs"]["latency_ms"]
        if latency["interval"] is None:  # it has a block that none of the ten networks has
            assert latency["measured"] > 0
        else:
            assert latency["interval"][0] < latency["predicted"] < latency["interval"][1]
    assert broken["best"]["costs"]["latency_ms"]["measured"] is not None
    candidates = searches.candidates()
    assert searches.result("whole", "1s") == broken
    assert searches.candidates() == candidates, "The unbroken search measured something anew."
