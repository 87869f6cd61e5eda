"""``fbn measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fbn_deploy.commands._options import Json, TargetName, Threads
from fbn_deploy.commands._shared import show


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
        "Search against it anywhere, with the space and options of the bundle: fbn search --space "
        f"{read.inventory.space['name']} --latency-table {out.name} --latency-budget …ms",
    )
