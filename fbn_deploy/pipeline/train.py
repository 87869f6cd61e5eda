"""The stage that ends with a trained supernet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fbn_deploy.checkpoint import load_tensors, load_weights, save_tensors
from fbn_deploy.errors import FBNError
from fbn_deploy.indicators import needs_skeleton
from fbn_deploy.loop import refuse_other_run
from fbn_deploy.pipeline.changed_space import as_begun
from fbn_deploy.pipeline.context import Context
from fbn_deploy.supernet.supernet import Supernet, build_supernet
from fbn_deploy.supernet.training import SupernetSettings, train_supernet


@dataclass(frozen=True)
class Trained:
    """A supernet, the settings that it was trained with, and the seconds that this took."""

    supernet: Supernet
    settings: SupernetSettings
    seconds: float

    def scored_in(
        self, context: Context, names: Sequence[str] = (), *, proxy: bool = True
    ) -> Supernet:
        """Where the indicators ``names`` are read: in the supernet itself once it is trained, and
        as long as it is not, in the small skeleton that the space names for it (``PROXY``), if
        ``proxy``. Those of bare networks are read in the space's own skeleton."""
        space, classes = context.definition, len(context.data.classes)
        bare = needs_skeleton(names)
        if bare or not proxy or self.settings.epochs != 0 or space.proxy == space:
            return self.supernet
        small = space.in_small(space.proxy, "PROXY", classes)
        found = build_supernet(small, classes, bn=context.bn, seed=self.supernet.seed)
        for parameter in found.network.parameters():
            parameter.requires_grad_(False)
        changed = [f"{k}={v}" for k, v in small.options.items() if v != space.options[k]]
        context.reporter.say(
            "Untrained candidates are scored in the small skeleton of the space: "
            f"{', '.join([*changed, f'{small.resolution}×{small.resolution} pixels'])}."
        )
        return found


def untrained_supernet(context: Context, seed: int) -> Trained:
    """The random initialisation of the run's supernet from ``seed``; nothing is written."""
    classes, settings = len(context.data.classes), replace(context.supernet_settings, epochs=0.0)
    supernet = build_supernet(context.definition, classes, bn=context.bn, seed=seed)
    return _resting(supernet, settings, 0.0)


def trained_supernet(context: Context, *, needed: bool = True) -> Trained:
    """The supernet of the run, none of whose parameters takes gradients.

    Read from ``supernet.safetensors`` if it is there, else trained, going on from the checkpoint
    of a killed run. ``needed=False``: nothing reads what training writes, so that a run that was
    told no epochs keeps the random initialisation, as it does if it was trained before. An
    initialisation that lies there gives way to training once that is needed.
    """
    run, supernet, job = context.run, context.supernet(), context.job
    settings = context.supernet_settings
    untrained = replace(settings, epochs=0.0)
    resting = settings.epochs is None and not needed
    stored = job.share_state(
        load_tensors(run.supernet) if job.is_first and run.supernet.exists() else None
    )
    if stored is not None:
        tensors, found = stored
        seconds = float(found.pop("seconds", 0.0))
        initial = found.get("supernet") == untrained.as_json()
        if not initial or resting or settings == untrained:
            settings = untrained if initial else settings
            refuse_other_run(run.supernet, found, _about(context, settings))
            load_weights(supernet.network, tensors, run.supernet)
            context.reporter.say(f"Supernet: {run.supernet}, found there")
            return _at_rest(context, supernet, settings, seconds)
    elif resting:
        settings = untrained
    context.refuse_changed_space()
    about = _about(context, settings)
    seconds = train_supernet(
        supernet,
        context.data,
        settings,
        checkpoint=run.supernet_checkpoint,
        about=about,
        reporter=context.reporter,
        job=job,
    )
    if job.is_first:
        save_tensors(run.supernet, supernet.network.state_dict(), {**about, "seconds": seconds})
    return _at_rest(context, supernet, settings, seconds)


def _about(context: Context, settings: SupernetSettings) -> dict[str, Any]:
    return {**context.identity, "supernet": settings.as_json()}


def _at_rest(
    context: Context, supernet: Supernet, settings: SupernetSettings, seconds: float
) -> Trained:
    if context.job.is_first and settings.epochs != 0:  # else it belongs to a training to go on with
        context.run.supernet_checkpoint.unlink(missing_ok=True)
    return _resting(supernet, settings, seconds)


def _resting(supernet: Supernet, settings: SupernetSettings, seconds: float) -> Trained:
    for parameter in supernet.network.parameters():
        parameter.requires_grad_(False)
    return Trained(supernet, settings, seconds)


def loaded_supernet(context: Context, path: Path) -> tuple[Supernet, dict[str, Any]]:
    """A supernet that another run trained, and what that run was.

    It may have been trained in any way and on other images of as many classes; ``FBNError`` when
    it is of another search space, or of this one with other options or BatchNorms.
    """
    tensors, about = load_tensors(path)
    if not {"space", "bn", "seed"} <= about.keys():
        raise FBNError(f"{path} was not written by fbn train: it does not say what it holds.")
    now = context.definition.as_json()
    asked = {"space": as_begun(now, about["space"]), "bn": context.bn}
    refuse_other_run(path, {key: about[key] for key in asked}, asked)
    if asked["space"] != now:
        spec = context.definition.spec
        context.reporter.say(f"The file of the search space {spec} changed since {path} was made.")
    supernet = build_supernet(
        context.definition, len(context.data.classes), bn=context.bn, seed=about["seed"]
    )
    load_weights(supernet.network, tensors, path)
    for parameter in supernet.network.parameters():
        parameter.requires_grad_(False)
    return supernet, about
