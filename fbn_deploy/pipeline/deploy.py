"""All stages in one go: from images and a budget to a verified model, its measured latency, and a
report of how it came about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.profile import NetworkProfile
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.export import export_subnet
from fbn_deploy.pipeline.forms import precision_file, run_form, verification_targets
from fbn_deploy.pipeline.precision import export_precision
from fbn_deploy.pipeline.precision_settings import PrecisionSettings
from fbn_deploy.pipeline.profile import profile
from fbn_deploy.pipeline.retrain import retrained_subnet
from fbn_deploy.pipeline.search import search
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.report.page import write_report
from fbn_deploy.retrain.training import RetrainSettings
from fbn_deploy.rundir import RunDir


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
        as_convolution=run_form(found, "fp32").as_convolution,
    )
    lower = None
    if precision_settings is not None:
        file = precision_file(found, precision_settings.precision)
        lower = export_precision(context, network, precision_settings, file)
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
