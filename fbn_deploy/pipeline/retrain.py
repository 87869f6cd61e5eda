"""The stage that ends with the chosen subnet, trained to its real accuracy."""

from __future__ import annotations

from typing import Any

from torch import nn

from fbn_deploy.checkpoint import load_tensors, load_weights, save_tensors
from fbn_deploy.errors import FBNError
from fbn_deploy.loop import refuse_other_run
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.search import chosen_architecture
from fbn_deploy.retrain import RetrainSettings, accuracy, retrain, subnet, trivial_accuracy
from fbn_deploy.space import Architecture


def retrained_subnet(
    context: Context, settings: RetrainSettings
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained subnet and its results: ``accuracy`` on the test split, ``trivial`` accuracy of
    the most frequent class, and ``seconds``. Read from ``subnet.safetensors`` if it is there."""
    run, data = context.run, context.data
    architecture = chosen_architecture(context)
    about = {
        **context.identity,
        "architecture": dict(architecture),
        "retrain": settings.as_json(),
    }
    if run.subnet.exists():
        network, found = load_subnet(context, architecture)
        results = found.pop("results")
        refuse_other_run(run.subnet, found, about)
        context.reporter.say(f"Subnet: {run.subnet}, trained before")
        return network, results
    network = _untrained(context, architecture, settings.fair_bn, settings.seed)
    seconds = retrain(
        network,
        data,
        settings,
        checkpoint=run.subnet_checkpoint,
        about=about,
        reporter=context.reporter,
    )
    results = {
        "accuracy": accuracy(network, data, data.test),
        "trivial": trivial_accuracy(data, data.test),
        "images": len(data.test),
        "seconds": round(seconds, 3),
    }
    save_tensors(run.subnet, network.state_dict(), {**about, "results": results})
    run.subnet_checkpoint.unlink(missing_ok=True)
    return network, results


def load_subnet(
    context: Context, architecture: Architecture | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained subnet of the run and what its file says of it."""
    run = context.run
    if not run.subnet.exists():
        raise FBNError(f"{run.path} has no trained subnet yet; run fbn retrain on it first.")
    tensors, about = load_tensors(run.subnet)
    architecture = architecture or chosen_architecture(context)
    try:
        settings = about["retrain"]
        other = about["architecture"] != dict(architecture)
    except KeyError:
        raise FBNError(f"{run.subnet} was not written by fbn retrain; move it away.") from None
    if other:
        raise FBNError(
            f"{run.subnet} holds another architecture than {run.search} chose; move one away."
        )
    network = _untrained(context, architecture, settings["fair_bn"], settings["seed"])
    load_weights(network, tensors, run.subnet)
    return network.eval(), about


def _untrained(context: Context, architecture: Architecture, fair_bn: bool, seed: int) -> nn.Module:
    return subnet(
        context.definition, architecture, len(context.data.classes), fair_bn=fair_bn, seed=seed
    )
