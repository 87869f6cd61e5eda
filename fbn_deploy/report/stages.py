"""The stages of a run that are not done, and the command that does each."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from fbn_deploy.report.run import Run
from fbn_deploy.report.searched import FP32

_BUILDER = "tensorrt"  # that an engine is suggested for


@dataclass(frozen=True)
class Stage:
    """A stage that left nothing yet. ``wanted``: a network is not shipped without it."""

    name: str
    gives: str
    command: str
    wanted: bool = True


def precision_option(run: Run) -> str:
    """What a command on the file that ships is told behind the run: `` --precision int8``."""
    return "" if run.precision == FP32 else f" --precision {shlex.quote(run.precision)}"


def profile_command(run: Run) -> str:
    return f"fbn profile {shlex.quote(str(run.path))}{precision_option(run)}"


def device_command(run: Run, target: str) -> str:
    """What measures the file that ships on another device, as the budget on ``target`` is meant."""
    settings = run.search.settings if run.search else {}
    words = "".join(
        f" --{name} {settings[name]}" for name in ("threads", "batch") if settings.get(name, 1) != 1
    )
    return (
        f"fbn profile {run.model}{precision_option(run)} --target {target}{words} "
        f"--out profile{_suffix(run)}.json"
    )


def _suffix(run: Run) -> str:
    """What stands in the names of files of the precision that ships."""
    return "" if run.precision == FP32 else f".{run.precision}"


def missing(run: Run) -> dict[str, Stage]:
    """Name → stage, in the order in which they are done. ``export`` and ``profile`` are of the
    file that ships."""
    path = shlex.quote(str(run.path))
    lower = run.precision != FP32
    precision, suffix = precision_option(run), _suffix(run)
    # Built from the file that ships where that is this target's; for another one it would be
    # written anew, in this target's form.
    ships_there = run.search is not None and any(b.target == _BUILDER for b in run.search.budgets)
    engine_precision, engine_suffix = (precision, suffix) if ships_there else ("", "")
    stages = [
        (
            run.search is None,
            Stage("search", "search.json", f"fbn search --run {path} --latency-budget 10ms"),
        ),
        (run.training is None, Stage("retrain", "subnet.safetensors", f"fbn retrain {path}")),
        (
            run.shipped is None,
            Stage(
                "export", f"{run.model} and verify{suffix}.json", f"fbn export {path}{precision}"
            ),
        ),
        (
            run.profile is None,
            Stage("profile", f"profile{suffix}.json", profile_command(run)),
        ),
        (
            not lower and not run.precisions,
            Stage("precision", "model.int8.onnx", f"fbn export {path} --precision int8", False),
        ),
        (
            not run.engines,
            Stage(
                "engine",
                f"model{engine_suffix}.{_BUILDER}.engine",
                f"fbn export {path}{engine_precision} --target {_BUILDER}",
                False,
            ),
        ),
    ]
    return {stage.name: stage for undone, stage in stages if undone}
