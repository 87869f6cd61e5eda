"""Budgets under foreign load: whether winners hold theirs when the machine is quiet again.

    python benchmarks/searches_loaded.py [--searches 50] [--minutes M]
                                         [--targets onnxruntime-cpu openvino-cpu]
                                         [--folder DIR]
                                         [--out benchmarks/results/searches_loaded.json]

Every search is a whole ``fbn deploy`` on digits in a process of its own, by its defaults but for a
small network, with another seed and a budget drawn log-uniformly from the fastest to the slowest
network of a survey, the targets taking turns. The survey is made before the load begins, and
measures the table that all share. Meanwhile another process computes for 0.5 to 8 s and rests for 1
to 15 s, again and again, so that a third of the time it shares a core. After ``--minutes`` no
further search is started. When all searches are done it ends, and ``fbn profile RUN`` in a fresh
process measures each winner twice. With ``--folder`` the runs are kept there, and the same command
goes on with what an earlier one left.

Stated: winners over their budget; how much of the budget the winner uses, and how many use 90 % of
it; which share of a deployment's time went to latency. Not every winner could use 90 %. It is asked
of two sets of searches: ``space_near``, where the space has such networks by the survey, from its
fastest network at 90 % of the budget or less to its slowest at the budget or more; and
``candidate_near``, where the search scored one. A search that aims below its budget leaves the
second set by its own doing.
Two things leave a part of a budget unused: the winner is the best network by its score, not the
slowest; and a promise is more than what a network takes. ``used_of_promised`` is the latter alone.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from searches import SMALL, SUBNET, Promise, profiled, promised, surveyed_ms

from fbn_deploy.files import read_json, write_json
from fbn_deploy.latency.record import LatencyRecord, utc_now
from fbn_deploy.rundir import RunDir
from fbn_deploy.targets import Target, ready_target

FULL = 0.9  # of the budget
_BUSY = """
import os, random, time
rng, parent = random.Random(0), os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + rng.uniform(0.5, 8)
    while time.monotonic() < end:
        sum(range(10_000))
    time.sleep(rng.uniform(1, 15))
"""


@dataclass
class Log:
    """A folder with what was surveyed, each search, and each profile, as they were done."""

    folder: Path

    def spans(self, targets: list[Target], console: Console) -> dict[str, tuple[float, float]]:
        """Target → the least and the largest latency of its survey, which is made once."""
        path, device = self.folder / "spans.json", targets[0].device()
        kept = read_json(path) if path.exists() else {"device": device, "ms": {}}
        if kept["device"] != device:
            raise SystemExit(f"{path} is of {kept['device']}; this is {device}.")
        for name in (each.name for each in targets):
            if name not in kept["ms"]:
                least, _, most = surveyed_ms(name, self.folder)
                kept["ms"][name] = [least, most]
                write_json(path, kept)
            console.print(f"{name}: {kept['ms'][name]} ms surveyed")
        return {name: (least, most) for name, (least, most) in kept["ms"].items()}

    def search(self, seed: int, target: str, budget_ms: float) -> Promise | None:
        """The deployment of ``seed``, made now or earlier; None when it refused its budget."""
        path = self._path(seed)
        if path.exists():
            return self._kept(read_json(path))
        promise = promised(target, budget_ms, seed, self.folder)
        content = {"target": target, "budget_ms": budget_ms, "seed": seed, "profiles": []}
        if promise is not None:
            content |= {"run": str(promise.run.path), "seconds": promise.seconds}
        write_json(path, content)
        return promise

    def profile(self, promise: Promise, times: int) -> None:
        """Measures a winner again until it was profiled ``times`` times."""
        path = self._path(promise.seed)
        while len(promise.profiles) < times:
            promise.profiles.append(profiled(promise, self.folder / "cache"))
            records = [record.as_json() for record in promise.profiles]
            write_json(path, read_json(path) | {"profiles": records})

    def _path(self, seed: int) -> Path:
        return self.folder / f"search-{seed}.json"

    def _kept(self, content: dict[str, Any]) -> Promise | None:
        if "run" not in content:
            return None
        run = RunDir(Path(content["run"]))
        target = content["target"]
        return Promise(
            run,
            target,
            content["budget_ms"],
            content["seed"],
            content["seconds"],
            read_json(run.search)["best"]["confirmed"][target],
            ended_s=-math.inf,
            profiles=[LatencyRecord.from_json(each) for each in content["profiles"]],
        )


@contextlib.contextmanager
def foreign_load() -> Iterator[None]:
    """Somebody else computes on the machine now and then."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError("The foreign load ended before the searches did.")
    finally:
        process.kill()
        process.wait()


def drawn_budget_ms(seed: int, least: float, most: float) -> float:
    return round(math.exp(random.Random(seed).uniform(math.log(least), math.log(most))), 3)


def space_near(budget_ms: float, least: float, most: float) -> bool:
    """Whether a space of latencies from ``least`` to ``most`` has networks that use 90 to 100 % of
    a budget."""
    return least <= FULL * budget_ms and budget_ms <= most


def judged(promise: Promise, span: tuple[float, float]) -> dict[str, Any]:
    """A winner against its budget; ``span`` is the survey's, on the same target."""
    content = read_json(promise.run.search)
    timing = content["timing"]
    entries = [each["costs"]["latency_ms"] for each in content["candidates"]]
    predicted = [each["predicted"] or each["measured"] for each in entries]
    later = [record.value_ms for record in promise.profiles]
    return {
        **promise.as_json(),
        "stretch": next(iter(content["survey"]["stretch"].values())),
        "rank_of_winner": 1 + sum(
            each["rank"] < content["best"]["rank"] for each in content["candidates"]
        ),
        "used": statistics.median(later) / promise.budget_ms,
        "promised_share": promise.confirmed["upper_ms"] / promise.budget_ms,
        "used_of_promised": statistics.median(later) / promise.confirmed["upper_ms"],
        "space_near": space_near(promise.budget_ms, *span),
        "candidate_near": any(ms >= FULL * promise.budget_ms for ms in predicted if ms),
        "over": max(later) > promise.budget_ms,
        "latency_share": timing["latency"] / promise.seconds,
    }  # fmt: skip


def _using(rows: Sequence[dict[str, Any]], share: str) -> int:
    return sum(row[share] >= FULL for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--targets", nargs="+", default=["onnxruntime-cpu", "openvino-cpu"])
    parser.add_argument("--folder", type=Path)
    default = Path(__file__).parent / "results/searches_loaded.json"
    parser.add_argument("--out", type=Path, default=default)
    said = parser.parse_args()
    console = Console(width=130)
    targets = [ready_target(name) for name in said.targets]
    started, refused = time.monotonic(), 0
    promises: list[Promise] = []
    with contextlib.ExitStack() as stack:
        folder = said.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = Log(folder)
        spans = log.spans(targets, console)
        with foreign_load():
            for seed in range(said.searches):
                if time.monotonic() - started > 60 * said.minutes:
                    break
                target = said.targets[seed % len(said.targets)]
                budget_ms = drawn_budget_ms(seed, *spans[target])
                promise = log.search(seed, target, budget_ms)
                if promise is None:
                    refused += 1
                    console.print(f"seed {seed}: {target} {budget_ms:g} ms is met by nothing")
                    continue
                promises.append(promise)
                console.print(
                    f"seed {seed}: {target} {budget_ms:g} ms, promised "
                    f"{promise.confirmed['upper_ms']:.3f} ms ({promise.seconds:.0f} s)"
                )
        for times in (1, 2):
            for promise in promises:
                log.profile(promise, times)
        rows = [judged(promise, spans[promise.target]) for promise in promises]
    if not rows:
        raise SystemExit("No search found a winner: allow more searches or minutes.")
    by_space = [row for row in rows if row["space_near"]]
    by_candidate = [row for row in rows if row["candidate_near"]]
    summary = {
        "searches": len(rows) + refused,
        "refused": refused,
        "winners": len(rows),
        "over_budget": sum(row["over"] for row in rows),
        "largest_share_of_budget": max(max(r["profiles_ms"]) / r["budget_ms"] for r in rows),
        "median_used": statistics.median(row["used"] for row in rows),
        "median_promised": statistics.median(row["promised_share"] for row in rows),
        "median_used_of_promised": statistics.median(row["used_of_promised"] for row in rows),
        "least_used_of_promised": min(row["used_of_promised"] for row in rows),
        "space_near": len(by_space),
        "space_near_using_90_percent": _using(by_space, "used"),
        "space_near_promising_90_percent": _using(by_space, "promised_share"),
        "candidate_near": len(by_candidate),
        "candidate_near_using_90_percent": _using(by_candidate, "used"),
        "candidate_near_promising_90_percent": _using(by_candidate, "promised_share"),
        "median_rank_of_winner": statistics.median(row["rank_of_winner"] for row in rows),
        "median_latency_share": statistics.median(row["latency_share"] for row in rows),
        "median_seconds": statistics.median(row["seconds"] for row in rows),
    }
    result = {
        "schema": 1,
        "date": utc_now(),
        "device": targets[0].device(),
        "versions": {k: v for target in targets for k, v in target.versions().items()},
        "load_at_end": os.getloadavg()[0],
        "command": " ".join(["fbn", "deploy", *SMALL, *SUBNET]),
        "surveyed_ms": {name: list(span) for name, span in spans.items()},
        "summary": summary,
        "seconds": time.monotonic() - started,
        "rows": rows,
    }
    write_json(said.out, result)
    for name, value in summary.items():
        console.print(f"{name:<36} {value if isinstance(value, int) else round(value, 3)}")


if __name__ == "__main__":
    main()
