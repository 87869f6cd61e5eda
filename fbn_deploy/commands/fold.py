"""``fbn fold``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fbn_deploy.commands._options import Json
from fbn_deploy.commands._shared import show


def command(
    source: Annotated[Path, typer.Argument(help="ONNX file.", metavar="IN.onnx")],
    destination: Annotated[Path, typer.Argument(help="Where to write.", metavar="OUT.onnx")],
    report: Annotated[Path | None, typer.Option("--report", help="JSON report.")] = None,
    equalize: Annotated[
        bool, typer.Option("--equalize", help="Equalise channel ranges, for INT8.")
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="What runs the file: how a shift that has to stay is written. See fbn targets.",
            show_default="onnxruntime-cpu",
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Folds every BatchNorm of any ONNX model away."""
    from fbn_deploy.export.folding import fold_file
    from fbn_deploy.targets import shifts_as_convolution

    form = shifts_as_convolution([target] if target else [])
    found = fold_file(source, destination, report, equalize, as_convolution=form)
    error = "not checked" if found.max_error is None else f"largest error {found.max_error:.1e}"
    show(
        json_output,
        found.as_json(),
        f"{destination}: BatchNorms {found.batchnorm_before} → {found.batchnorm_after}, "
        f"nodes {found.nodes_before} → {found.nodes_after}, stayed {len(found.stayed)}, {error}",
    )
