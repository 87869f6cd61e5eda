"""All stages in one go: from images and a budget to a verified model, its measured latency, and a
report of how it came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.export.precision.form import Form
from fbn_deploy.latency.profile import NetworkProfile
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.export import export_subnet
from fbn_deploy.pipeline.precision import PrecisionSettings, export_precision
from fbn_deploy.pipeline.profile import profile
from fbn_deploy.pipeline.retrain import retrained_subnet
from fbn_deploy.pipeline.search import search
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.report.page import write_report
from fbn_deploy.retrain.training import RetrainSettings
from fbn_deploy.rundir import RunDir
from fbn_deploy.targets import (
    Target,
    form_for,
    ready_target,
    shifts_as_convolution,
    target_named,
    targets,
)


@dataclass(frozen=True)
class Deployed:
    """What a deployment ends with."""

    search: dict[str, Any]
    training: dict[str, Any]
    verification: dict[str, Any]
    profile: NetworkProfile
    """Of the file in the precision of the search."""
    precision: dict[str, Any] | None
    """The verification of the file in another precision, where one was asked."""
    report: Path | None
    """None where something in the directory could not be read, which was said."""


def deploy(
    context: Context,
    search_settings: SearchSettings,
    retrain_settings: RetrainSettings,
    precision_settings: PrecisionSettings | None = None,
) -> Deployed:
    """Search, retrain, export, verify, profile, report; every stage that is done already is
    kept."""
    found = search(context, search_settings)
    network, training = retrained_subnet(context, retrain_settings)
    verification = export_subnet(
        context,
        network,
        verification_targets(found, context.reporter.say),
        as_convolution=shifts_as_convolution(found["best"]["confirmed"]),
    )
    lower = None
    if precision_settings is not None:
        targets = precision_targets(found, precision_settings.precision)
        form = precision_form(found, precision_settings.precision, targets)
        lower = export_precision(context, network, precision_settings, targets, form)
    measured = profile(context.run.path, precision=search_settings.precision)
    report = reported(context.run, context.reporter.say)
    return Deployed(found, training, verification, measured, lower, report)


def reported(run: RunDir, say: Callable[[str], None]) -> Path | None:
    """The report of ``run``; None where a file in it cannot be read, which is said: the rest of
    a deployment is no worse for it."""
    try:
        return write_report(run.path)[0]
    except FBNError as error:
        say(f"No report was written: {error}")
        return None


def precision_targets(found: dict[str, Any], precision: str) -> list[Target]:
    """The targets of the budgets that are ready and run ``precision``; where none is, every one."""
    able = [t for t in targets() if precision in t.precisions and t.missing() is None]
    named = {budget["target"] for budget in found["budgets"]}
    return [target for target in able if target.name in named] or able


def precision_form(found: dict[str, Any], precision: str, targets: Sequence[Target]) -> Form:
    """How a file for the budgets' targets is written, be they here or not, as the search wrote its
    candidates; without budgets of latency, for ``targets``."""
    budgeted = {budget["target"] for budget in found["budgets"] if budget["target"]}
    return form_for(precision, budgeted or [target.name for target in targets])


def verification_targets(found: dict[str, Any], say: Callable[[str], None]) -> list[Target]:
    """The targets that an export is verified on: ONNX Runtime, and, where they are ready, those of
    the budgets that were confirmed and the one that the search was told of. A confirmed one that
    is not ready here is said: it may have been on another machine."""
    confirmed = found["best"]["confirmed"]  # a target of a latency table is not among them
    told = found["settings"]["target"]
    ready = [ready_target("onnxruntime-cpu")]
    for name in dict.fromkeys([*confirmed, *([told] if told else [])]):
        target = target_named(name)
        reason = target.missing()
        if reason is None:
            ready += [target] if target not in ready else []
        elif name in confirmed:
            say(f"Not verified on {name}, where the budget was confirmed: {reason.rstrip('.')}.")
    return ready
