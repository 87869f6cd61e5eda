"""``fbn measure``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fbn_deploy.commands._options import Json, TargetName, Threads
from fbn_deploy.commands._shared import show

if TYPE_CHECKING:
    from fbn_deploy.latency.blocktable import LatencyTable


def command(
    bundle: Annotated[Path, typer.Argument(help="What fbn bundle wrote.", metavar="B.fbn")],
    out: Annotated[Path, typer.Option("--out", help="Table to write.", metavar="TABLE.json")],
    target: TargetName = None,
    threads: Threads = 1,
    json_output: Json = False,
) -> None:
    """Measures a bundle on this device, which needs no PyTorch."""
    from fbn_deploy.files import refuse_to_overwrite
    from fbn_deploy.latency.blocktable import measured_table
    from fbn_deploy.latency.bundle import read_bundle
    from fbn_deploy.latency.cache import LatencyCache
    from fbn_deploy.latency.meter import LatencyMeter
    from fbn_deploy.progress import reporter
    from fbn_deploy.targets import default_target, ready_target, refuse_form

    refuse_to_overwrite(bundle, out)
    read = read_bundle(bundle)
    precision = read.inventory.precision
    chosen = ready_target(target) if target else default_target(precision)
    refuse_form(chosen.name, precision, read.inventory.unsigned)
    meter = LatencyMeter(
        chosen,
        batch=read.inventory.batch,
        threads=threads,
        precision=precision,
        cache=LatencyCache(),
    )
    table = measured_table(read.inventory, read.network, meter, reporter(json_output))
    table.save(out)
    quality = table.predictor().quality
    show(
        json_output,
        {"table": str(out), "target": table.target, **table.as_json()},
        f"{out}: {table.cost_text()}.\n{quality.text()}\n"
        f"Search against it anywhere, on images of {read.inventory.num_classes} classes: "
        f"{_search_command(table, out)}",
    )


def _search_command(table: LatencyTable, path: Path) -> str:
    """What searches the space of ``table`` under the conditions that it was measured in."""
    from fbn_deploy.report.fields import shown

    inventory = table.inventory
    space = inventory.space
    words = ["--space", space["name"], "--resolution", str(space["resolution"])]
    for name, value in space["options"].items():
        if value not in (None, []):  # which are defaults: nobody can type them
            words += ["-o", f"{name}={shown(value)}"]
    for option, value, default in (
        ("--bn", inventory.bn, "fair"),
        ("--precision", inventory.precision, "fp32"),
        ("--batch", inventory.batch, 1),
        ("--threads", table.threads, 1),
    ):
        words += [option, str(value)] if value != default else []
    words += ["--latency-table", path.name]
    return f"fbn search {shlex.join(words)} --data DIR --latency-budget 10ms"
