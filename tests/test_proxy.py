"""Where untrained candidates are scored: in the small skeleton that their space names for it."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch

from fbn_deploy.data import load_data
from fbn_deploy.errors import FBNError
from fbn_deploy.indicators import probe_batches
from fbn_deploy.pipeline.answers import scorers
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.pipeline.train import Trained, trained_supernet
from fbn_deploy.progress import Silent
from fbn_deploy.supernet.definition import definition

OTHER_CHOICES = """
from torch import nn
from fbn_deploy.supernet.choice import Choice
PROXY = {"layers": 1}
def network(num_classes, resolution=32, layers=3):
    op = lambda: nn.Conv2d(3, 3, 3, padding=1)
    choices = [Choice(f"layer{n}", {"a": op(), "b": op()}) for n in range(layers)]
    return nn.Sequential(*choices, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
"""
LARGE_KERNEL = """
from torch import nn
from fbn_deploy.supernet.choice import Choice
PROXY = TRIAL = {"width": 4}
def network(num_classes, resolution=32, width=8):
    choice = Choice("op", {"a": nn.Conv2d(width, width, 3, padding=1), "b": nn.Identity()})
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]
    return nn.Sequential(nn.Conv2d(3, width, 20), choice, *head)
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    given = Given(space="nasbench201", resolution=32, options={"channels": "4"})
    return open_run(tmp_path_factory.mktemp("run") / "run", given, Silent())


@pytest.fixture(scope="module")
def untrained(context: Context) -> Trained:
    return trained_supernet(context, needed=False)


def test_a_proxy_has_the_options_of_its_file_unless_others_were_said() -> None:
    assert definition("nasbench201").proxy.options == {"cells": 1, "channels": 32}
    assert definition("nasbench201", 32, {"channels": 4}).proxy.options["channels"] == 4
    assert [definition("nasbench201", r).proxy.resolution for r in (64, 32, 31, 16)] == [
        32, 16, 31, 16,
    ]  # fmt: skip
    without = definition("mobilenet", 64)
    assert without.proxy == without


def test_only_what_is_untrained_is_scored_in_the_proxy(
    context: Context, untrained: Trained
) -> None:
    proxy = untrained.scored_in(context).definition
    assert (proxy.resolution, proxy.options["cells"]) == (16, 1)
    assert untrained.scored_in(context, proxy=False) is untrained.supernet
    for epochs in (None, 0.5):
        settings = dataclasses.replace(untrained.settings, epochs=epochs)
        trained = dataclasses.replace(untrained, settings=settings)
        assert trained.scored_in(context) is untrained.supernet


def test_scores_of_the_proxy_and_of_the_whole_are_kept_apart(
    context: Context, untrained: Trained
) -> None:
    architecture = untrained.supernet.space.sample(random.Random(0))
    found = {}
    for proxy in (True, False, True):
        supernet = untrained.scored_in(context, proxy=proxy)
        about = untrained.settings.as_json()
        (scorer,) = scorers(context, supernet, about, [["naswot"]], batches=2, size=16)
        (values,) = scorer([architecture])
        assert found.setdefault(proxy, values["naswot"]) == values["naswot"]
    assert found[True] != found[False]
    lines = [json.loads(line) for line in context.run.scores.read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines}) == 2


def test_smaller_images_are_means_of_squares() -> None:
    probe = probe_batches(load_data(resolution=8, seed=0), batches=2, batch_size=8, seed=0)
    small = probe.reduced(2)
    expected = probe.images[1].reshape(8, 3, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(small.images[1], expected)
    assert probe.reduced(1) is probe


def test_a_proxy_with_other_choices_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OTHER_CHOICES)
    run = open_run(tmp_path / "run", Given(space=str(path), resolution=32), Silent())
    with pytest.raises(FBNError, match=r"PROXY of .* leave it out with --no-proxy"):
        trained_supernet(run, needed=False).scored_in(run)


def test_a_proxy_with_an_option_that_the_space_lacks_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OTHER_CHOICES.replace('"layers": 1', '"layer": 1'))
    made = definition(str(path), 32)
    with pytest.raises(FBNError, match=r"network\(\) of the search space .*'layer'"):
        made.in_small(made.proxy, "PROXY", 10)


def test_a_space_that_runs_at_no_half_of_its_resolution_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(LARGE_KERNEL)
    made = definition(str(path), 32)
    for attribute, small in (("PROXY", made.proxy), ("TRIAL", made.trial)):
        assert small.resolution == 16
        kept = made.in_small(small, attribute, 10)
        assert (kept.resolution, dict(kept.options)) == (32, {"width": 4})
    assert made.in_small(definition(str(path), 64).proxy, "PROXY", 10).resolution == 32
