"""The stage that ends with the chosen subnet, trained to its real accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fbn_deploy.accelerator import compute_device
from fbn_deploy.checkpoint import load_tensors, load_weights, save_tensors
from fbn_deploy.errors import FBNError
from fbn_deploy.loop import refuse_other_run
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.search import chosen_architecture
from fbn_deploy.pipeline.train import trained_supernet
from fbn_deploy.retrain.evaluation import accuracy, trivial_accuracy
from fbn_deploy.retrain.network import subnet, subnet_of_supernet
from fbn_deploy.retrain.training import RetrainSettings, retrain
from fbn_deploy.space import Architecture


def retrained_subnet(
    context: Context, settings: RetrainSettings, workers: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained subnet and its results: ``accuracy`` on the test split, ``trivial`` accuracy of
    the most frequent class, and ``seconds``. Read from ``subnet.safetensors`` if it is there."""
    run, data, job = context.run, context.data, context.job
    architecture = chosen_architecture(context)
    about = {
        **context.identity,
        "architecture": dict(architecture),
        "retrain": settings.as_json(),
    }
    stored = job.share_state(
        load_tensors(run.subnet) if job.is_first and run.subnet.exists() else None
    )
    if stored is not None:
        network = _loaded(context, architecture, *stored)
        found = dict(stored[1])
        results = found.pop("results")
        refuse_other_run(run.subnet, found, about)
        context.reporter.say(f"Subnet: {run.subnet}, trained before")
        return network, results
    network = _start(context, architecture, settings)
    trained = retrain(
        network,
        data,
        settings,
        checkpoint=run.subnet_checkpoint,
        best=run.subnet_best,
        about=about,
        reporter=context.reporter,
        job=job,
        workers=workers,
    )
    reached = accuracy(network.to(compute_device()), data, data.test, job=job)
    network.to("cpu")
    results = {
        "accuracy": reached,
        "trivial": trivial_accuracy(data, data.test),
        "images": len(data.test),
        "seconds": round(trained.seconds, 3),
        "losses": [list(epoch) for epoch in trained.losses],
        "validation": [list(epoch) for epoch in trained.epochs],
        "best_epoch": trained.best_epoch,
    }
    if job.is_first:
        save_tensors(run.subnet, network.state_dict(), {**about, "results": results})
        if settings.recipe.keep == "best":
            run.subnet_checkpoint.replace(run.subnet_last)
        else:
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
    return _loaded(context, architecture or chosen_architecture(context), tensors, about), about


def _loaded(
    context: Context,
    architecture: Architecture,
    tensors: Mapping[str, torch.Tensor],
    about: Mapping[str, Any],
) -> nn.Module:
    run = context.run
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
    return network.eval()


def _start(context: Context, architecture: Architecture, settings: RetrainSettings) -> nn.Module:
    """The network that the training begins with."""
    if not settings.warm_start:
        return _untrained(context, architecture, settings.recipe.fair_bn, settings.seed)
    if not _supernet_is_trained(context):
        raise FBNError(
            f"{context.run.path} has no trained supernet to start from; leave --warm-start out, or "
            "run fbn train on it."
        )
    if settings.recipe.fair_bn != (context.bn == "fair"):
        raise FBNError(
            f"A warm start keeps the BatchNorms of the supernet, which are {context.bn}: set "
            f"fair_bn to {str(context.bn == 'fair').lower()}."
        )
    supernet = trained_supernet(context).supernet
    return subnet_of_supernet(supernet, architecture)


def _supernet_is_trained(context: Context) -> bool:
    """Whether the run's supernet is more than the initialisation that a search left there."""
    path, job = context.run.supernet, context.job
    about = load_tensors(path)[1] if job.is_first and path.exists() else {}
    trained: bool = job.share(about.get("supernet", {"epochs": 0}).get("epochs") != 0)
    return trained


def _untrained(context: Context, architecture: Architecture, fair_bn: bool, seed: int) -> nn.Module:
    return subnet(
        context.definition, architecture, len(context.data.classes), fair_bn=fair_bn, seed=seed
    )
