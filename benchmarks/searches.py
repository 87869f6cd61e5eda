"""Whether what a search promised holds: the winner's latency against its budget, measured again.

    python benchmarks/searches.py [--searches 20] [--targets onnxruntime-cpu openvino-cpu]
                                  [--out benchmarks/results/searches.json]

Every search is a whole ``fbn deploy`` on digits in a process of its own, by its defaults but for a
small network, with another seed, the targets and the budgets taking turns. The budgets bind:
half-way from the fastest to the median of a survey on the target, the median, half-way to the
slowest. The subnet is hardly trained, which no latency notices. Searches share a latency cache, and
in it the table that the survey measured.

``fbn profile RUN`` in a fresh process measures a winner again after the next search, and once more
when all searches are done, a minute after the last one at least. Stated: how many winners were
under their budget each time; profile / budget; how much of the budget was promised (``upper``) and
used; how many were under the bound that was promised, and under the one without the stretch to a
slow machine (``slowdown.py``). A search that refuses its budget promises nothing; it is counted
apart, and another seed is tried in its place.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fbn_deploy.files import read_json, write_json
from fbn_deploy.latency.meter import Confirmation
from fbn_deploy.latency.record import LatencyRecord, utc_now
from fbn_deploy.rundir import RunDir
from fbn_deploy.targets import ready_target

SMALL = ["--width", "0.5", "--depth", "2"]
SUBNET = ["--retrain-epochs", "0.1"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
NO_BUDGET_MEETS = 3  # exit code
LATER_S = 60.0
NOT_BINDING = "1s"


@dataclass
class Promise:
    """A winner, what was promised for it, and what was measured later."""

    run: RunDir
    target: str
    budget_ms: float
    seed: int
    seconds: float
    confirmed: dict[str, Any]
    ended_s: float = field(default_factory=time.monotonic)
    profiles: list[LatencyRecord] = field(default_factory=list)

    @property
    def unstretched_ms(self) -> float:
        """The bound as it is where the machine's slow speed is not known."""
        records = [LatencyRecord.from_json(each) for each in self.confirmed["records"]]
        alone = [dataclasses.replace(each, slow_reference_us=None) for each in records]
        return Confirmation(tuple(alone)).upper_ms

    def as_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "budget_ms": self.budget_ms,
            "seed": self.seed,
            "seconds": self.seconds,
            "value_ms": self.confirmed["value_ms"],
            "upper_ms": self.confirmed["upper_ms"],
            "unstretched_upper_ms": self.unstretched_ms,
            "slowdown": self.confirmed["slowdown"],
            "disturbed": self.confirmed["disturbed"],
            "profiles_ms": [record.value_ms for record in self.profiles],
            "profiles_disturbed": [record.disturbed for record in self.profiles],
            "references_us": {
                "confirmed": [r["reference_us"] for r in self.confirmed["records"]],
                "slow": [r["slow_reference_us"] for r in self.confirmed["records"]],
                "profiled": [record.timing.reference_us for record in self.profiles],
            },
            "loads": [record.timing.load for record in self.profiles],
        }


def fbn(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """``fbn`` in a fresh process, on one thread and with a cache of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fbn_deploy", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ONE_THREAD | {"FBN_CACHE_DIR": str(cache)},
    )


def surveyed_ms(target: str, folder: Path) -> tuple[float, float, float]:
    """The least, median and largest latency of a search's survey on ``target``, as predicted by
    the table that all searches share."""
    run = RunDir(folder / f"survey-{target}")
    limit = f"{target}:{NOT_BINDING}"
    done = fbn("search", *SMALL, "--candidates", "1", "--predictor", "table", "--latency-budget",
               limit, "--target", target, "--run", str(run.path),
               cache=folder / "cache")  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    (found,) = read_json(run.search)["survey"]["ranges"]
    return found["least"], found["median"], found["most"]


def binding_budgets_ms(target: str, folder: Path) -> list[float]:
    """Three budgets that part the space's networks on ``target``, from one search's survey."""
    least, median, most = surveyed_ms(target, folder)
    return [round(ms, 3) for ms in ((least + median) / 2, median, (median + most) / 2)]


def promised(target: str, budget_ms: float, seed: int, folder: Path) -> Promise | None:
    """One whole deployment; None when the search refused its budget. What it said is kept beside
    its run."""
    run = RunDir(folder / f"run-{seed}")
    start_s = time.monotonic()
    done = fbn("deploy", *SMALL, *SUBNET, "--seed", str(seed), "--target", target,
               "--latency-budget", f"{target}:{budget_ms}ms", "--run", str(run.path),
               cache=folder / "cache")  # fmt: skip
    run.path.with_suffix(".log").write_text(done.stderr)
    if done.returncode == NO_BUDGET_MEETS:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    confirmed = read_json(run.search)["best"]["confirmed"][target]
    return Promise(run, target, budget_ms, seed, time.monotonic() - start_s, confirmed)


def profiled(promise: Promise, cache: Path) -> LatencyRecord:
    """What ``fbn profile`` says of the winner now, a minute after its search at least."""
    time.sleep(max(0.0, promise.ended_s + LATER_S - time.monotonic()))
    done = fbn("profile", str(promise.run.path), "--json", cache=cache)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return LatencyRecord.from_json(json.loads(done.stdout)["latency"])


def searched(
    searches: int, budgets_ms: dict[str, list[float]], folder: Path, console: Console
) -> tuple[list[Promise], int]:
    """The promises, each profiled twice, and the number of searches that refused their budget."""
    promises: list[Promise] = []
    refused = 0
    targets = list(budgets_ms)
    for seed in range(2 * searches):
        if len(promises) == searches:
            break
        target = targets[seed % len(targets)]
        limits = budgets_ms[target]
        limit = limits[seed // len(targets) % len(limits)]
        promise = promised(target, limit, seed, folder)
        if promise is None:
            refused += 1
            console.print(f"seed {seed}: {target} {limit:g} ms is met by nothing")
            continue
        console.print(
            f"seed {seed}: {target} {limit:g} ms, promised {promise.confirmed['upper_ms']:.3f} ms "
            f"({promise.seconds:.0f} s)"
        )
        if promises:
            promises[-1].profiles.append(profiled(promises[-1], folder / "cache"))
        promises.append(promise)
    if promises:
        promises[-1].profiles.append(profiled(promises[-1], folder / "cache"))
    for promise in promises:
        promise.profiles.append(profiled(promise, folder / "cache"))
    return promises, refused


def summary(promises: list[Promise]) -> dict[str, Any]:
    """Counts over winners, for each time of profiling; medians of shares of the budget."""
    pairs = [(p, record.value_ms) for p in promises for record in p.profiles]
    return {
        "winners": len(promises),
        "under_budget_after_next_search": _held(promises, 0),
        "under_budget_at_the_end": _held(promises, 1),
        "under_budget_both_times": sum(
            all(record.value_ms <= p.budget_ms for record in p.profiles) for p in promises
        ),
        "profiles": len(pairs),
        "profiles_disturbed": sum(r.disturbed for p in promises for r in p.profiles),
        "profiles_under_promised_upper": sum(ms <= p.confirmed["upper_ms"] for p, ms in pairs),
        "profiles_under_unstretched_upper": sum(ms <= p.unstretched_ms for p, ms in pairs),
        "largest_profile_over_budget": max(ms / p.budget_ms for p, ms in pairs),
        "median_profile_over_budget": statistics.median(ms / p.budget_ms for p, ms in pairs),
        "median_upper_over_budget": statistics.median(
            p.confirmed["upper_ms"] / p.budget_ms for p in promises
        ),
        "median_profile_over_upper": statistics.median(
            ms / p.confirmed["upper_ms"] for p, ms in pairs
        ),
        "median_slowdown": statistics.median(p.confirmed["slowdown"] for p in promises),
        "median_seconds": statistics.median(p.seconds for p in promises),
    }


def _held(promises: list[Promise], time_of_profile: int) -> int:
    return sum(p.profiles[time_of_profile].value_ms <= p.budget_ms for p in promises)


def printed(result: dict[str, Any], console: Console) -> None:
    table = Table(title="Winners against their budgets, in ms", box=None)
    headings = ("seed", "target", "budget", "confirmed", "slowdown", "promised", "profiled after")
    for heading in (*headings, "at the end", "largest / budget"):
        table.add_column(heading, justify="right")
    for row in result["searches"]:
        numbers = (row["budget_ms"], row["value_ms"], row["slowdown"], row["upper_ms"])
        largest = max(row["profiles_ms"]) / row["budget_ms"]
        table.add_row(
            str(row["seed"]),
            row["target"],
            *(f"{number:.3f}" for number in (*numbers, *row["profiles_ms"])),
            f"{largest:.1%}" + (" over" if largest > 1 else ""),
        )
    console.print(table)
    s = result["summary"]
    low, high = result["load"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    console.print(
        f"Under the budget: {s['under_budget_after_next_search']} of {s['winners']} after the next "
        f"search, {s['under_budget_at_the_end']} at the end, {s['under_budget_both_times']} both "
        f"times; {result['refused']} searches refused their budget.\n"
        f"Profiles under the promised bound: {s['profiles_under_promised_upper']} of "
        f"{s['profiles']} ({s['profiles_disturbed']} disturbed); under the bound without the "
        f"stretch: {s['profiles_under_unstretched_upper']}.\n"
        f"Of the budget, medians: profiled {s['median_profile_over_budget']:.1%} (largest "
        f"{s['largest_profile_over_budget']:.1%}), promised {s['median_upper_over_budget']:.1%}; "
        f"profiled / promised {s['median_profile_over_upper']:.1%}.\n"
        f"{s['median_seconds']:.0f} s a search; {result['device']}; {versions}; one thread; load "
        f"{low:.1f} to {high:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--targets", nargs="+", default=["onnxruntime-cpu", "openvino-cpu"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/searches.json")
    arguments = parser.parse_args()
    console = Console(width=130)
    targets = [ready_target(name) for name in arguments.targets]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        budgets_ms = {each.name: binding_budgets_ms(each.name, folder) for each in targets}
        for target, limits in budgets_ms.items():
            console.print(f"{target}: budgets {', '.join(f'{limit:g} ms' for limit in limits)}")
        promises, refused = searched(arguments.searches, budgets_ms, folder, console)
    loads = [record.timing.load for promise in promises for record in promise.profiles]
    result = {
        "schema": 1,
        "date": utc_now(),
        "device": targets[0].device(),
        "versions": {k: v for target in targets for k, v in target.versions().items()},
        "threads": 1,
        "load": [min(loads), max(loads)],
        "command": " ".join(["fbn", "deploy", *SMALL, *SUBNET]),
        "budgets_ms": budgets_ms,
        "refused": refused,
        "summary": summary(promises),
        "searches": [promise.as_json() for promise in promises],
    }
    write_json(arguments.out, result)
    printed(result, console)


if __name__ == "__main__":
    main()
