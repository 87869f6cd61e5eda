"""The stage that times a model on a target: the whole and layer by layer, or its throughput."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.latency.profile import NetworkProfile, profile_network
from fbn_deploy.latency.throughput import BATCHES, Throughput, measure_throughput
from fbn_deploy.pipeline.stored_search import stored_search
from fbn_deploy.rundir import RunDir
from fbn_deploy.targets import PRECISIONS, Target, default_target, ready_target, targets


@dataclass(frozen=True)
class _Subject:
    """The file to time and what its run, if it is of one, was searched for."""

    model: Path
    run: RunDir | None
    target: Target
    settings: dict[str, Any]
    name: str
    """The precision in the names of the run's files."""


def profile(
    model_or_run: Path,
    *,
    target: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    precision: str = "fp32",
) -> NetworkProfile:
    """The profile of an ONNX file, or of a run's model in ``precision``; then also
    ``profile.json`` or ``profile.<precision>.json``.

    For a run, what is not given is taken from its search, so that the budget's conditions hold.
    Needs no PyTorch.
    """
    subject = _subject(model_or_run, target, precision)
    found = profile_network(
        subject.model,
        subject.target,
        batch=batch or subject.settings.get("batch", 1),
        threads=threads or subject.settings.get("threads", 1),
        precision=precision,
    )
    if subject.run is not None:
        run = subject.run
        found.save(run.profile if precision == "fp32" else run.precision_profile(subject.name))
    return found


def throughput(
    model_or_run: Path,
    *,
    target: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    precision: str = "fp32",
) -> Throughput:
    """Images a second over batch sizes, or at ``batch`` only; see ``latency/throughput.py``."""
    subject = _subject(model_or_run, target, precision)
    return measure_throughput(
        subject.model,
        subject.target,
        threads=threads or subject.settings.get("threads", 1),
        precision=precision,
        batches=BATCHES if batch is None else (batch,),
    )


def _subject(model_or_run: Path, target: str | None, precision: str) -> _Subject:
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    path = Path(model_or_run)
    run = RunDir(path) if path.is_dir() else None
    if run is None:
        return _Subject(path, None, _target(target, None, precision), {}, precision)
    settings = _searched(run)
    chosen = _target(target, settings.get("target"), precision)
    name = _name(run, precision, chosen)
    model = run.model if precision == "fp32" else run.precision_model(name)
    if not model.exists():
        run.configuration()
        how = "" if precision == "fp32" else f" --precision {precision}"
        first = "" if run.subnet.exists() else "fbn retrain and "
        raise FBNError(f"{path} has no {model.name} yet; run {first}fbn export{how} on it.")
    return _Subject(model, run, chosen, settings, name)


def _name(run: RunDir, precision: str, target: Target) -> str:
    """``precision``, or what stands for it in the names of the int8 file that was written for
    targets like ``target`` alone."""
    if precision != "int8" or target.unsigned_activations is None:
        return precision
    other = run.other_int8(target.unsigned_activations)
    return other if run.precision_model(other).exists() else precision


def _searched(run: RunDir) -> dict[str, Any]:
    """The settings of the run's search, if there was one."""
    found: dict[str, Any] = stored_search(run)["settings"] if run.search.exists() else {}
    return found


def _target(asked: str | None, searched: str | None, precision: str) -> Target:
    """The target asked for, else that of the search if it is here and runs ``precision``, else the
    default one."""
    if asked is not None:
        return ready_target(asked)
    able = [t for t in targets() if t.name == searched and precision in t.precisions]
    return able[0] if able and not able[0].missing() else default_target(precision)
