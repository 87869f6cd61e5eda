"""``fbn bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fbn_deploy.commands._flat import flat
from fbn_deploy.commands._groups import RunOptions
from fbn_deploy.commands._options import (
    AccuracyColumn,
    ArchitectureColumn,
    ArchitecturesFile,
    IndicatorNames,
    Json,
    LatencyBudgets,
    LatencyColumn,
    MinAccuracy,
    Plots,
    ProbeBatches,
    ProbeSize,
    Proxy,
    Samples,
    SupernetFile,
    Table,
)
from fbn_deploy.commands._shared import opened, show
from fbn_deploy.errors import FBNError

if TYPE_CHECKING:
    from pathlib import Path


@flat
def command(
    table: Table,
    architecture_column: ArchitectureColumn,
    accuracy_column: AccuracyColumn,
    about: RunOptions,
    indicators: IndicatorNames = "cpi",
    samples: Samples = 300,
    latency_column: LatencyColumn = None,
    latency_budgets: LatencyBudgets = "",
    supernet: SupernetFile = None,
    architectures: ArchitecturesFile = None,
    min_accuracy: MinAccuracy = None,
    plots: Plots = None,
    probe_batches: ProbeBatches = 4,
    probe_size: ProbeSize = 64,
    proxy: Proxy = True,
    json_output: Json = False,
) -> None:
    """Judges indicators by a table of trained accuracies."""
    from fbn_deploy.bench.result_table import result_table
    from fbn_deploy.bench.settings import BenchSettings
    from fbn_deploy.pipeline.bench import bench, check_rows

    if supernet is not None:
        _refuse_training(about, supernet)
    asked = BenchSettings(
        table=table,
        architecture_column=architecture_column,
        accuracy_column=accuracy_column,
        indicators=_texts(indicators),
        samples=samples,
        latency_column=latency_column,
        latency_budgets=_texts(latency_budgets),
        supernet=supernet,
        architectures=architectures,
        min_accuracy=min_accuracy,
        plots=plots,
        probe_batches=probe_batches,
        probe_size=probe_size,
        proxy=proxy,
    ).checked()
    context = opened(
        about.run,
        about.given(),
        quiet=json_output,
        check=lambda context, space: check_rows(asked, space, context.seed),
    )
    found = bench(context, asked)
    show(json_output, found, result_table(found, context.run.bench))


def _refuse_training(about: RunOptions, supernet: Path) -> None:
    said = [name for name, value in about.training().items() if value is not None]
    if said:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in said)
        raise FBNError(f"--supernet {supernet} is trained already; leave out {options}.")


def _texts(commas: str) -> tuple[str, ...]:
    """What stands between commas, each once."""
    return tuple(dict.fromkeys(text.strip() for text in commas.split(",") if text.strip()))
