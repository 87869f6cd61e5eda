"""Supernets and trained accuracies that several benchmarks use: no benchmark by itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fbn_deploy.bench.choose import chosen
from fbn_deploy.bench.csvfile import read_csv
from fbn_deploy.bench.trained import Trained, trained_table
from fbn_deploy.indicators import Indicator, Scoring, probe_batches
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.pipeline.train import trained_supernet
from fbn_deploy.progress import reporter
from fbn_deploy.supernet.supernet import Supernet
from fbn_deploy.targets._cpu import device_name


@dataclass(frozen=True)
class Benchmark:
    """A space and the columns of its table; networks that reached less than ``above`` are left
    out."""

    space: str
    table: str
    architecture: str
    accuracy: str
    above: float


CELLS = Benchmark("nasbench201", "nasbench201_cifar10.csv.gz", "arch_str", "c10_test", 10.5)
MACRO = Benchmark("nasbench_macro", "nasbench_macro_cifar10.csv.gz", "arch", "acc_mean", 0.0)
TRAINED_ON = 40_000  # images of CIFAR-10: a fifth of the training set is held out
SMALL: dict[str, Mapping[str, Any]] = {
    "nasbench201": {"cells": 1, "channels": 32},
    "nasbench_macro": {"width": 0.5},
}


@dataclass(frozen=True)
class Setup:
    """How a supernet is made and read; ``training`` holds fields of ``SupernetSettings``."""

    benchmark: Benchmark
    options: Mapping[str, Any]
    resolution: int = 16
    bn: str = "fair"
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 0.0})
    batches: int = 4
    batch_size: int = 64

    @property
    def name(self) -> str:
        """A directory name; setups that differ only in how they are read share it."""
        parts = {**self.options, "px": self.resolution, "bn": self.bn, **self.training}
        return "-".join(
            [self.benchmark.space, *(f"{k}={v}" for k, v in parts.items()), f"s{self.seed}"]
        )


@dataclass(frozen=True)
class Places:
    """Where images, tables and run directories are."""

    images: Path
    tables: Path
    runs: Path

    def supernet(self, setup: Setup) -> tuple[Context, Supernet]:
        """Trained, or found trained."""
        given = Given(
            space=setup.benchmark.space,
            resolution=setup.resolution,
            options=setup.options,
            data=str(self.images),
            bn=setup.bn,
            seed=setup.seed,
            supernet=setup.training,
        )
        context = open_run(self.runs / setup.name, given, reporter(False))
        return context, trained_supernet(context).supernet

    def rows(self, of: Benchmark, supernet: Supernet, samples: int, seed: int) -> list[Trained]:
        """Different networks, the same for every supernet of a space."""
        table = trained_table(
            read_csv(self.tables / of.table), supernet.space, [of.architecture], of.accuracy
        )
        return chosen(table, supernet.space, samples=samples, seed=seed, min_accuracy=of.above)[0]

    def scores(
        self, setup: Setup, names: Sequence[str], samples: int
    ) -> tuple[Supernet, list[Trained], list[dict[str, float]]]:
        """Networks drawn by the setup's seed, and what indicators say of them."""
        context, supernet = self.supernet(setup)
        rows = self.rows(setup.benchmark, supernet, samples, setup.seed)
        scoring = scoring_of(setup, context, supernet, names)
        return supernet, rows, [scoring(row.architecture) for row in rows]


def scoring_of(
    setup: Setup, context: Context, supernet: Supernet, asked: Sequence[str | Indicator]
) -> Scoring:
    """The indicators ``asked`` of a supernet on the setup's images."""
    probe = probe_batches(
        context.data, batches=setup.batches, batch_size=setup.batch_size, seed=setup.seed
    )
    return Scoring(supernet, probe, asked)


def one_thread() -> None:
    """As the figures of this project were made."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(1)


def machine() -> dict[str, Any]:
    """What figures come from."""
    return {
        "device": device_name(),
        "threads": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
