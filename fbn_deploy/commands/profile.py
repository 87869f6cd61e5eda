"""``fbn profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fbn_deploy.commands._options import Json, TargetName
from fbn_deploy.commands._shared import show


def command(
    model: Annotated[Path, typer.Argument(help="Run directory or ONNX file.", metavar="RUN|ONNX")],
    target: TargetName = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Images a run.")] = None,
    json_output: Json = False,
) -> None:
    """Measures latency with its story, and by layer."""
    from fbn_deploy.latency.table import profile_table
    from fbn_deploy.pipeline.profile import profile

    found = profile(model, target=target, threads=threads, batch=batch)
    show(json_output, found.as_json(), profile_table(found))
