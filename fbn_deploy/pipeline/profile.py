"""The stage that times a model on a target: the whole, and layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json
from fbn_deploy.latency.profile import NetworkProfile, profile_network
from fbn_deploy.rundir import RunDir
from fbn_deploy.targets import Target, default_target, ready_target


def profile(
    model_or_run: Path,
    *,
    target: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
) -> NetworkProfile:
    """The profile of an ONNX file, or of a run's ``model.onnx``; then also ``profile.json``.

    For a run, what is not given is taken from its search, so that the budget's conditions hold.
    Needs no PyTorch.
    """
    path = Path(model_or_run)
    settings: dict[str, Any] = {}
    run = RunDir(path) if path.is_dir() else None
    if run is not None:
        if not run.model.exists():
            run.configuration()
            raise FBNError(f"{path} has no model.onnx yet; run fbn retrain and fbn export on it.")
        path = run.model
        settings = read_json(run.search)["settings"] if run.search.exists() else {}
    name = target or settings.get("target")
    chosen: Target = ready_target(name) if name else default_target()
    found = profile_network(
        path,
        chosen,
        batch=batch or settings.get("batch", 1),
        threads=threads or settings.get("threads", 1),
    )
    if run is not None:
        found.save(run.profile)
    return found
