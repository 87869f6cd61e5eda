"""The stages of a run that are not done, and the command that does each."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from fbn_deploy.report.run import Run


@dataclass(frozen=True)
class Stage:
    """A stage that left nothing yet. ``wanted``: a network is not shipped without it."""

    name: str
    gives: str
    command: str
    wanted: bool = True


def missing(run: Run) -> dict[str, Stage]:
    """Name → stage, in the order in which they are done."""
    path = shlex.quote(str(run.path))
    stages = [
        Stage("search", "search.json", f"fbn search --run {path} --latency-budget 10ms")
        if run.search is None
        else None,
        Stage("retrain", "subnet.safetensors", f"fbn retrain {path}")
        if run.training is None
        else None,
        Stage("export", "model.onnx and verify.json", f"fbn export {path}")
        if run.export is None
        else None,
        Stage("profile", "profile.json", f"fbn profile {path}") if run.profile is None else None,
        Stage("precision", "model.int8.onnx", f"fbn export {path} --precision int8", wanted=False)
        if not run.precisions
        else None,
        Stage(
            "engine",
            "model.tensorrt.engine",
            f"fbn export {path} --target tensorrt",
            wanted=False,
        )
        if not run.engines
        else None,
    ]
    return {stage.name: stage for stage in stages if stage}
