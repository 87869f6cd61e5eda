"""What commands have in common: the run directory opened, the result printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fbn_deploy.pipeline.context import Context, Given


def opened(run: Path | None, given: Given, *, quiet: bool) -> Context:
    """The run directory of a command that may begin one."""
    from fbn_deploy.pipeline.context import default_run, open_run
    from fbn_deploy.progress import reporter

    return open_run(run or default_run(), given, reporter(quiet))


def existing(run: Path, *, quiet: bool) -> Context:
    """The run directory of a command that goes on from what is in it."""
    from fbn_deploy.pipeline.context import Given, open_run
    from fbn_deploy.progress import reporter

    return open_run(run, Given(), reporter(quiet), create=False)


def show(json_output: bool, value: Any, shown: Any) -> None:
    """``value`` as the one JSON object on stdout, or ``shown`` (text, or a table) for people."""
    if json_output:
        print(json.dumps(value, indent=1, ensure_ascii=False))
        return
    if isinstance(shown, str):
        print(shown)
        return
    from rich.console import Console

    Console().print(shown, highlight=False)
