"""All stages in one go: from images and a budget to a verified model and its measured latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fbn_deploy.latency.profile import NetworkProfile
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.export import export_subnet
from fbn_deploy.pipeline.profile import profile
from fbn_deploy.pipeline.retrain import retrained_subnet
from fbn_deploy.pipeline.search import SearchSettings, search
from fbn_deploy.retrain.training import RetrainSettings
from fbn_deploy.targets import Target, ready_target


@dataclass(frozen=True)
class Deployed:
    """What a deployment ends with."""

    search: dict[str, Any]
    training: dict[str, Any]
    verification: dict[str, Any]
    profile: NetworkProfile


def deploy(
    context: Context, search_settings: SearchSettings, retrain_settings: RetrainSettings
) -> Deployed:
    """Search, retrain, export, verify, profile; every stage that is done already is kept."""
    found = search(context, search_settings)
    network, training = retrained_subnet(context, retrain_settings)
    verification = export_subnet(context, network, verification_targets(found))
    return Deployed(found, training, verification, profile(context.run.path))


def verification_targets(found: dict[str, Any]) -> list[Target]:
    """The targets that an export is verified on: ONNX Runtime, and those of the budgets."""
    names = ["onnxruntime-cpu"]
    names += [budget["target"] for budget in found["budgets"] if budget["target"]]
    return [ready_target(name) for name in dict.fromkeys(names)]
