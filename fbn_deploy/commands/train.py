"""``fbn train``."""

from __future__ import annotations

from fbn_deploy.commands._flat import flat
from fbn_deploy.commands._groups import RunOptions
from fbn_deploy.commands._options import Json
from fbn_deploy.commands._shared import opened, show


@flat
def command(about: RunOptions, json_output: Json = False) -> None:
    """Trains the supernet."""
    from fbn_deploy.pipeline.train import trained_supernet

    context = opened(about.run, about.given(), quiet=json_output, together=True)
    seconds = trained_supernet(context).seconds
    result = {"run": str(context.run.path), "seconds": seconds}
    show(json_output, result, f"Trained supernet in {context.run.supernet} ({seconds:.0f} s)")
