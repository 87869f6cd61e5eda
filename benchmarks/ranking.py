"""How ``cpi`` ranks beside what else there is, on tables of trained accuracies.

    python benchmarks/ranking.py --images CIFAR10 --tables DIR [--runs DIR] [--only proxy_s0,…]

Each case is one ``fbn bench``; run directories that are there go on. DIR holds
``nasbench201_cifar10.csv.gz`` and ``nasbench_macro_cifar10.csv.gz``. Prints one table and writes
``results/ranking.json``: every case's arguments, settings, results and regret. Cases that are not
run this time keep what stands there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fbn_deploy.files import read_json, write_json
from fbn_deploy.targets._cpu import device_name

OWN = (
    "cpi,cpi-gradients,expressivity-rank,trainability-gradients,uncertainty-eigenvalue,"
    "uncertainty-signal,trainability-cka,cpi-spectra,expressivity-regions,trainability-conditioning,"
    "cpi-regions,cpi-paper,trainability,uncertainty,gamma"
)
BASELINES = (
    "cpi,cpi-gradients,naswot,jacob-cov,synflow,three-proxy,snip,grasp,fisher,te-nas,zico,az-nas,"
    "params,flops"
)
ALL = f"{OWN},az-nas,three-proxy,naswot,synflow,flops"
NB201 = (
    "--space nasbench201 --table {tables}/nasbench201_cifar10.csv.gz --architecture-column arch_str"
    " --accuracy-column c10_test --min-accuracy 10.5"
)
HOME = "cpi,cpi-gradients"
TX2 = " --latency-column hwnb_c10_edgegpu_lat_ms --latency-budgets 4ms,5ms,6ms"
PROXY = " --resolution 16 --space-option cells=1 --space-option channels=32"
MACRO_TABLE = (
    "--space nasbench_macro --table {tables}/nasbench_macro_cifar10.csv.gz"
    " --architecture-column arch --accuracy-column acc_mean"
)
MACRO = f"{MACRO_TABLE} --resolution 16 --space-option width=0.5"
CASES = {
    **{f"proxy_s{s}": f"{NB201}{PROXY}{TX2} --epochs 0 --indicators {ALL} --seed {s}"
       for s in range(3)},
    # As many epochs as the default, 1,500 steps, said so that what needs none reads them too.
    **{f"trained_s{s}": f"{NB201}{PROXY} --epochs 3.84 --indicators {OWN} --seed {s}"
       for s in range(3)},
    "full_s0": f"{NB201} --epochs 0 --no-proxy"
               " --indicators cpi,cpi-regions,az-nas,three-proxy,flops --seed 0",
    **{f"full_s{s}": f"{NB201}{TX2} --no-proxy --indicators cpi,flops --seed {s}"
       for s in range(1, 3)},
    "macro_s0": f"{MACRO} --epochs 0 --indicators {ALL} --seed 0",
    "macro_trained_s0": f"{MACRO} --epochs 3.84 --indicators {OWN} --seed 0",
    # Everybody at home, by the defaults: cpi in the proxy, baselines in the benchmark's skeleton.
    **{f"baselines_s{s}": f"{NB201} --samples {n} --seed {s} --indicators {BASELINES}"
       for s, n in enumerate((200, 100, 100))},
    "macro_baselines_s0": f"{MACRO_TABLE} --samples 100 --seed 0 --indicators {BASELINES}",
    "home_s0": f"{NB201} --samples 200 --seed 0 --indicators {HOME}",
    # Spaces on which nothing was chosen.
    "nb101_s0": "--space nasbench101 --table {tables}/nasbench101_cifar10.csv.gz"
                " --architecture-column adj_upper,ops --accuracy-column test_acc_e108"
                f" --indicators {HOME},flops --seed 0",
    "darts_s0": "--space darts --table {tables}/darts_cifar10.csv.gz"
                " --architecture-column genotype --accuracy-column acc_final_e600"
                f" --indicators {HOME},flops --seed 0",
    "macro_home_s0": f"{MACRO_TABLE} --samples 100 --seed 0 --indicators {HOME}",
    # The defaults: candidates of the benchmark's own skeleton, scored in the space's proxy.
    **{f"search_s{s}": f"{NB201}{TX2} --indicators cpi,flops --seed {s}" for s in range(10)},
}  # fmt: skip
KEPT = (
    "space",
    "definition",
    "seed",
    "supernet",
    "probe",
    "samples",
    "skipped",
    "results",
    "regret",
)


def bench(arguments: str, given: argparse.Namespace, run: str, samples: int = 300) -> Any:
    """What one ``fbn bench`` with these arguments said, in the run directory of that name."""
    command = [sys.executable, "-m", "fbn_deploy", "bench"]
    command += ["--samples", str(samples), *arguments.format(tables=given.tables).split()]
    command += ["--data", str(given.images), "--run", str(given.runs / run), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout)


def machine(threads: int) -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "device": device_name(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def arguments_parser(description: str | None, result: str) -> argparse.ArgumentParser:
    """The options of every benchmark on the tables."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/ranking"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / result)
    return parser


def benched(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One case: what ``fbn bench`` said, without the single architectures."""
    found = bench(CASES[name], given, name)
    return {"arguments": CASES[name], **{key: found[key] for key in KEPT}}


def table_of(cases: dict[str, Any]) -> Table:
    """τ of every indicator in every case."""
    table = Table("indicator", *cases, title="Kendall τ")
    values = {
        name: {each["indicator"]: each["kendall"] for each in case["results"]}
        for name, case in cases.items()
    }
    for indicator in dict.fromkeys([*ALL.split(","), *BASELINES.split(",")]):
        taus = [values[name].get(indicator) for name in cases]
        table.add_row(indicator, *("–" if tau is None else f"{tau:.3f}" for tau in taus))
    return table


def main() -> None:
    """Runs the cases in turn."""
    parser = arguments_parser(__doc__, "ranking.json")
    parser.add_argument("--only", default=",".join(CASES))
    given = parser.parse_args()
    cases = {
        name: {"machine": machine(1), **benched(name, given)} for name in given.only.split(",")
    }
    Console().print(table_of(cases))
    before = read_json(given.out)["cases"] if given.out.exists() else {}
    write_json(given.out, {"schema": 1, "cases": {**before, **cases}})


if __name__ == "__main__":
    main()
