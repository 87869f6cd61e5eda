"""``fbn doctor``."""

from __future__ import annotations

from fbn_deploy.commands._options import Json
from fbn_deploy.commands._shared import show


def command(json_output: Json = False) -> None:
    """What works here: PyTorch, devices, targets, and what mends what does not."""
    from fbn_deploy.pipeline.doctor import examination

    found = examination()
    show(json_output, found.as_json(), found.table())
