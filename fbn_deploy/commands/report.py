"""``fbn report``."""

from __future__ import annotations

from fbn_deploy.commands._options import Json, RunArgument
from fbn_deploy.commands._shared import show


def command(run: RunArgument, json_output: Json = False) -> None:
    """Writes report.html: whether to ship the network, and why. Needs no PyTorch."""
    from fbn_deploy.report.page import write_report
    from fbn_deploy.report.stages import missing

    path, found, verdict = write_report(run)
    undone = missing(found)
    content = {
        "run": str(run),
        "report": str(path),
        "verdict": verdict.as_json(),
        "not_done": {stage.name: stage.command for stage in undone.values()},
    }
    lines = [f"Not done yet: {stage.command}" for stage in undone.values() if stage.wanted]
    show(json_output, content, "\n".join([*lines, verdict.headline, f"Report: {path}"]))
