"""The stage that ends with a trained supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fbn_deploy.checkpoint import load_tensors, load_weights, save_tensors
from fbn_deploy.errors import FBNError
from fbn_deploy.loop import refuse_other_run
from fbn_deploy.pipeline.context import Context
from fbn_deploy.supernet.supernet import Supernet, build_supernet
from fbn_deploy.supernet.training import train_supernet


def trained_supernet(context: Context) -> tuple[Supernet, float]:
    """The supernet of the run and the seconds that its training took.

    Read from ``supernet.safetensors`` if it is there, else trained, going on from the checkpoint
    of a killed run.
    """
    run, supernet, job = context.run, context.supernet(), context.job
    about = {**context.identity, "supernet": context.supernet_settings.as_json()}
    stored = job.share_state(
        load_tensors(run.supernet) if job.is_first and run.supernet.exists() else None
    )
    if stored is not None:
        tensors, found = stored
        seconds = float(found.pop("seconds", 0.0))
        refuse_other_run(run.supernet, found, about)
        load_weights(supernet.network, tensors, run.supernet)
        context.reporter.say(f"Supernet: {run.supernet}, trained before")
    else:
        seconds = train_supernet(
            supernet,
            context.data,
            context.supernet_settings,
            checkpoint=run.supernet_checkpoint,
            about=about,
            reporter=context.reporter,
            job=job,
        )
        if job.is_first:
            save_tensors(run.supernet, supernet.network.state_dict(), {**about, "seconds": seconds})
    if job.is_first:
        run.supernet_checkpoint.unlink(missing_ok=True)
    for parameter in supernet.network.parameters():
        parameter.requires_grad_(False)
    return supernet, seconds


def loaded_supernet(context: Context, path: Path) -> tuple[Supernet, dict[str, Any]]:
    """A supernet that another run trained, and what that run was.

    It may have been trained in any way and on other images of as many classes; ``FBNError`` when
    it is of another search space, or of this one with other options or BatchNorms.
    """
    tensors, about = load_tensors(path)
    asked = {key: context.identity[key] for key in ("space", "bn")}
    if not {"space", "bn", "seed"} <= about.keys():
        raise FBNError(f"{path} was not written by fbn train: it does not say what it holds.")
    refuse_other_run(path, {key: about.get(key) for key in asked}, asked)
    supernet = build_supernet(
        context.definition, len(context.data.classes), bn=context.bn, seed=about["seed"]
    )
    load_weights(supernet.network, tensors, path)
    for parameter in supernet.network.parameters():
        parameter.requires_grad_(False)
    return supernet, about
