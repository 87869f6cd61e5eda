"""``fbn bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fbn_deploy.commands import _options as options
from fbn_deploy.commands._groups import RunOptions
from fbn_deploy.commands._shared import show


def command(
    out: Annotated[Path, typer.Option("--out", help="Bundle to write.", metavar="B.fbn")],
    space: options.Space = None,
    resolution: options.Resolution = None,
    width: options.Width = None,
    depth: options.Depth = None,
    space_option: options.SpaceOption = None,
    classes: Annotated[int, typer.Option("--classes", help="Classes of the data.")] = 10,
    batch: options.Batch = 1,
    bn: options.Bn = None,
    precision: options.DeployedPrecision = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="What will measure it: says how int8 is written."),
    ] = None,
    probes: Annotated[
        int, typer.Option("--probes", help="Whole networks that the predictor is fitted on.")
    ] = 60,
    json_output: options.Json = False,
) -> None:
    """Writes a space's blocks for fbn measure on a device without PyTorch."""
    from fbn_deploy.files import refuse_to_overwrite
    from fbn_deploy.pipeline.bundle import bundle
    from fbn_deploy.pipeline.context import DEFAULT_SPACE
    from fbn_deploy.progress import reporter
    from fbn_deploy.supernet.definition import definition

    given = RunOptions(
        space=space, resolution=resolution, width=width, depth=depth, space_option=space_option
    ).given()
    chosen = definition(given.space or DEFAULT_SPACE, resolution, given.options)
    refuse_to_overwrite(Path(str(chosen.module.__file__)), out)
    found = bundle(
        chosen,
        classes,
        batch,
        out,
        reporter(json_output),
        bn=bn or "fair",
        probes=probes,
        precision=precision or "fp32",
        target=target,
    )
    size_mb = out.stat().st_size / 1e6
    show(
        json_output,
        {"bundle": str(out), "size_mb": size_mb, **found.as_json()},
        f"{out}: {len(found.blocks)} blocks and {len(found.probes)} whole networks of "
        f"{chosen.name}, {size_mb:.1f} MB. Measure it on the device: "
        f"fbn measure {out.name} --out table.json",
    )
