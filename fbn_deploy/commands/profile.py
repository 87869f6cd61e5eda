"""``fbn profile``."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fbn_deploy.commands._options import Json, TargetName, run_path
from fbn_deploy.commands._shared import show
from fbn_deploy.errors import FBNError, NothingFitsError

if TYPE_CHECKING:
    from fbn_deploy.search.budgets import Budget


def command(
    model: Annotated[
        Path,
        typer.Argument(help="Run directory or ONNX file.", metavar="RUN|ONNX", parser=run_path),
    ],
    target: TargetName = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images a run.")] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="A run's model of it; how to open a file.")
    ] = "fp32",
    latency_budget: Annotated[
        str | None,
        typer.Option("--latency-budget", help="4ms: exit code 3 where the median is over it."),
    ] = None,
    throughput: Annotated[
        bool, typer.Option("--throughput", help="Images a second over batch sizes instead.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="JSON file, too; a run's latency is in its profile.json anyway.",
            show_default=False,
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Measures latency with its story, and by layer; or throughput."""
    from fbn_deploy.files import refuse_to_overwrite, write_json
    from fbn_deploy.latency.table import profile_table
    from fbn_deploy.pipeline import profile as stage

    budget = _budget(latency_budget, target, throughput)
    for read in (model, *model.glob("*.onnx")):  # of a run directory, its files
        refuse_to_overwrite(read, out)
    if out is not None and model.is_dir():
        _refuse_files_of_run(model, out)
    if throughput:
        rates = stage.throughput(
            model, target=target, threads=threads, batch=batch, precision=precision
        )
        if out is not None:
            write_json(out, rates.as_json())
        return show(json_output, rates.as_json(), rates.text())
    found = stage.profile(
        model,
        target=budget.target if budget and budget.target else target,
        threads=threads,
        batch=batch,
        precision=precision,
    )
    if out is not None:
        found.save(out)
    show(json_output, found.as_json(), profile_table(found))
    if budget is None:
        return None
    value_ms = found.record.value_ms
    if not budget.is_met_by(value_ms):
        disturbed = " It was disturbed: measure it again." if found.record.disturbed else ""
        raise NothingFitsError(
            f"{model} takes {budget.amount_of(value_ms)}, over the budget of "
            f"{budget.amount_of(budget.limit)}.{disturbed}"
        )
    print(
        f"Within the budget of {budget.amount_of(budget.limit)}.",
        file=sys.stderr if json_output else sys.stdout,
    )
    return None


def _budget(text: str | None, target: str | None, throughput: bool) -> Budget | None:
    """What ``--latency-budget`` says; ``FBNError`` where it does not go with the other options."""
    from fbn_deploy.search.budgets import latency_budget

    if text is None:
        return None
    budget = latency_budget(text)
    if throughput:
        raise FBNError("A latency budget is not one of throughput; leave out one of the two.")
    if budget.target and target and budget.target != target:
        raise FBNError(
            f"The budget is one on {budget.target}, and --target is {target}; leave out one."
        )
    return budget


def _refuse_files_of_run(run: Path, out: Path) -> None:
    """``FBNError`` where ``out`` is a file in ``run`` other than profiles, by whatever name."""
    for file in run.iterdir() if out.exists() else ():
        own = fnmatch(file.name, "profile*.json")
        if not own and file.exists() and file.samefile(out):
            raise FBNError(f"{file} is a file of the run; choose another name for the profile.")
