"""A supernet is trained when something reads what training writes, and not otherwise."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from fbn_deploy.errors import FBNError
from fbn_deploy.files import write_json
from fbn_deploy.indicators import needs_training
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.pipeline.retrain import retrained_subnet
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.pipeline.train import trained_supernet
from fbn_deploy.progress import reporter
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.training import RetrainSettings

TINY = {"channels": 4, "cells": 1}


def run(path: Path, **training: float) -> Context:
    given = Given(space="nasbench201", resolution=16, options=TINY, supernet=training)
    return open_run(path, given, reporter(True))


def learnt(context: Context, *, needed: bool) -> bool:
    """Whether some γ of the run's supernet moved."""
    supernet = trained_supernet(context, needed=needed).supernet
    gammas = [m.weight for m in supernet.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    return any(not torch.equal(gamma, torch.ones_like(gamma)) for gamma in gammas)


def short(context: Context, steps: int) -> Context:
    """The same run with ``steps`` as what is trained when no epochs are said."""
    batches = len(context.data.train) // context.supernet_settings.batch_size
    settings = dataclasses.replace(context.supernet_settings, epochs=steps / batches)
    return dataclasses.replace(context, supernet_settings=settings)


@pytest.mark.parametrize("name", ["cpi", "naswot", "az-nas", "flops"])
def test_what_is_read_off_an_initialisation_needs_no_training(name: str) -> None:
    assert not needs_training([name])


@pytest.mark.parametrize("name", ["cpi-paper", "gamma", "trainability", "uncertainty"])
def test_what_training_writes_needs_training(name: str) -> None:
    assert needs_training(["cpi", name])


def test_no_epochs_said_and_none_needed_keeps_the_initialisation(tmp_path: Path) -> None:
    assert not learnt(run(tmp_path), needed=False)
    assert not learnt(run(tmp_path), needed=False), "The second time it is read from its file."


def test_a_search_that_trains_nothing_leaves_the_checkpoint_of_a_killed_training(
    tmp_path: Path,
) -> None:
    context = run(tmp_path)
    context.run.supernet_checkpoint.write_bytes(b"half a training")
    assert not learnt(context, needed=False)
    assert context.run.supernet_checkpoint.read_bytes() == b"half a training"


def test_epochs_that_were_said_are_trained_though_none_are_needed(tmp_path: Path) -> None:
    assert learnt(run(tmp_path, epochs=0.2), needed=False)


def test_a_trained_supernet_is_kept_though_none_is_needed(tmp_path: Path) -> None:
    context = run(tmp_path)
    trained = short(context, 3)
    assert learnt(trained, needed=True)
    assert learnt(trained, needed=False)


def test_an_initialisation_gives_way_when_training_is_needed(tmp_path: Path) -> None:
    context = run(tmp_path)
    assert not learnt(context, needed=False)
    assert learnt(short(context, 3), needed=True)


def test_a_warm_start_from_an_initialisation_is_refused_and_leaves_it(tmp_path: Path) -> None:
    context = run(tmp_path)
    assert not learnt(context, needed=False)
    before = context.run.supernet.read_bytes()
    drawn = context.supernet().space.sample(random.Random(0))
    best = {"architecture": dict(drawn), "confirmed": {}, "costs": {}, "text": ""}
    settings = SearchSettings(()).as_json()
    write_json(
        context.run.search,
        {"schema": 1, "settings": settings, "budgets": [], "candidates": [], "best": best},
    )
    warm = RetrainSettings(recipe("quick", {"epochs": 0.05}), warm_start=True)
    with pytest.raises(FBNError, match="has no trained supernet to start from"):
        retrained_subnet(context, warm)
    assert context.run.supernet.read_bytes() == before
    trained = short(context, 3)
    assert learnt(trained, needed=True)
    retrained_subnet(trained, warm)


def test_a_supernet_that_was_trained_otherwise_is_refused(tmp_path: Path) -> None:
    assert learnt(run(tmp_path, epochs=0.2), needed=True)
    with pytest.raises(FBNError, match="supernet"):
        learnt(run(tmp_path, epochs=0.4), needed=True)
