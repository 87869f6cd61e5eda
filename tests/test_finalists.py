"""The best candidates are trained briefly, and that orders them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fbn_deploy.data import ImageData, load_data
from fbn_deploy.errors import FBNError
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.pipeline.finalists import (
    by_trial,
    trial_scorer,
    with_finalists,
)
from fbn_deploy.pipeline.search import search
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.progress import reporter
from fbn_deploy.retrain import trial as trials
from fbn_deploy.retrain.trial import LOSS, Trial, TrialSettings
from fbn_deploy.search.budgets import flops_budget
from fbn_deploy.search.candidates import Candidate, Population
from fbn_deploy.space import Architecture, SearchSpace
from fbn_deploy.supernet.definition import SpaceDefinition, definition

SPACE = definition("nasbench201", 32, {"channels": 4, "cells": 2})
SHORT = TrialSettings(steps=8, batch_size=16)
CONVOLUTION = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"
RNG = random.Random(0)
CUT_OFF = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(resolution=32, seed=0)


def space_of(made: SpaceDefinition) -> SearchSpace:
    return made.search_space(made.network(10, 0))


def loss(data: ImageData, text: str, settings: TrialSettings = SHORT) -> float:
    return Trial(SPACE, data, settings)(space_of(SPACE).parse(text))[LOSS]


def test_a_trial_runs_in_the_small_skeleton_at_half_the_resolution() -> None:
    small = SPACE.trial
    assert (small.resolution, dict(small.options)) == (16, {"channels": 4, "cells": 1})
    assert space_of(small).decisions == space_of(SPACE).decisions
    assert small.trial.resolution == 16, "It is not halved below 16 pixels."
    assert definition("mobilenet", 33).trial.resolution == 33
    assert definition("mobilenet", 160, {"width": 0.5}).trial.options["width"] == 0.5


def test_a_trial_is_a_function_of_the_architecture_and_leaves_no_trace(digits: ImageData) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = loss(digits, CONVOLUTION)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    assert loss(digits, CONVOLUTION) == first
    assert loss(digits, CONVOLUTION, TrialSettings(steps=8, batch_size=16, seed=1)) != first


def test_what_learns_has_the_smaller_loss(digits: ImageData) -> None:
    """Two residual convolutions against a cell whose output is cut off from its input."""
    settings = TrialSettings(steps=60, batch_size=32)
    assert loss(digits, CONVOLUTION, settings) < 0.5
    assert loss(digits, CUT_OFF, settings) == pytest.approx(math.log(10), abs=0.3)


def test_a_space_that_builds_its_subnets_is_tried_in_them(digits: ImageData) -> None:
    made = definition("nasbench101", 32, {"channels": 8})
    space = space_of(made)
    architecture = space.sample(RNG)
    value = Trial(made, digits, TrialSettings(steps=2, batch_size=8))(architecture)[LOSS]
    assert math.isfinite(value)


def test_who_was_tried_comes_first_by_both_ranks_and_the_others_keep_their_order() -> None:
    """b: first by score, third by loss; d: second and second; e: third and first: equal, so that
    the score decides; f is last by both."""
    scores: list[dict[str, float]] = [
        {"s": 9.0},
        {"s": 1.0, LOSS: 0.9},
        {"s": 8.0},
        {"s": 2.0, LOSS: 0.5},
        {"s": 3.0, LOSS: 0.4},
        {"s": 4.0, LOSS: 1.0},
        {"s": 8.0},
    ]
    rank = by_trial(lambda candidates: [each.scores["s"] for each in candidates])

    def ranks(scores: list[dict[str, float]]) -> list[float]:
        return list(rank([Candidate(Architecture.of({}), "", each, {}) for each in scores]))

    assert ranks(scores) == [7.0, 1.0, 5.5, 2.0, 3.0, 4.0, 5.5]
    assert ranks([{"s": 2.0}, {"s": 1.0}]) == [2.0, 1.0]
    assert ranks([{"s": 2.0, LOSS: 1.0}, {"s": 1.0, LOSS: 2.0}]) == [2.0, 1.0]


def test_fewer_finalists_than_none_are_refused() -> None:
    assert SearchSettings(()).finalists == 0
    with pytest.raises(FBNError, match="Finalists are 0"):
        SearchSettings((flops_budget("2M"),), finalists=-1).resolved()


def opened(path: Path) -> Context:
    given = Given(space="nasbench201", resolution=16, options={"channels": 4, "cells": 1})
    return open_run(path, given, reporter(True))


def test_a_search_tries_its_finalists_and_remembers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = opened(tmp_path)
    settings = SearchSettings(
        (flops_budget("2M"),), candidates=24, probe_batches=2, probe_size=16, finalists=24
    )
    monkeypatch.setattr("fbn_deploy.pipeline.finalists.TrialSettings", lambda seed=0: SHORT)
    found = search(context, settings)
    losses = [each["indicators"].get(LOSS) for each in found["candidates"]]
    tried = math.ceil(0.1 * len(losses))
    assert tried == 3
    assert all(loss > 0 for loss in losses[:tried])
    assert losses[tried:] == [None] * (len(losses) - tried)
    assert found["best"]["indicators"] == found["candidates"][0]["indicators"]
    assert found["timing"]["trial"] > 0

    def never(self: Any, network: Any) -> Any:
        raise AssertionError("A trial was made again.")

    monkeypatch.setattr(trials.Trial, "_losses", never)
    context.run.search.unlink()
    again = search(opened(tmp_path), settings)
    assert again["candidates"] == found["candidates"]


def test_of_two_finalists_none_is_tried(tmp_path: Path) -> None:
    """The mean of two ranks would be a tie, or the order that they have."""
    context = opened(tmp_path)
    space = space_of(context.definition)
    drawn = {space.canonical(each): each for each in (space.sample(RNG) for _ in range(40))}
    candidates = tuple(
        Candidate(architecture, name, {"s": place}, {})
        for place, (name, architecture) in enumerate(list(drawn.items())[:20])
    )
    population = Population(lambda found: [each.scores["s"] for each in found], candidates)
    scorer = trial_scorer(context, space)
    assert len(candidates) == 20
    assert with_finalists(population, 24, scorer, context) is population


def test_a_space_that_takes_no_half_resolution_is_tried_at_the_full_one(digits: ImageData) -> None:
    made = definition("darts", 36, {"channels": 4, "cells": 3})
    with pytest.raises(FBNError, match="18"):
        made.trial.network(10, 0)
    assert Trial(made, digits, SHORT)._definition.resolution == 36


def test_a_trial_network_with_other_choices_is_refused_before_the_search(
    digits: ImageData, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        """
from torch import nn
from fbn_deploy.supernet.choice import Choice
TRIAL = {"layers": 1}
def network(num_classes, resolution=32, layers=3):
    op = lambda: nn.Conv2d(3, 3, 3, padding=1)
    choices = [Choice(f"layer{n}", {"a": op(), "b": op()}) for n in range(layers)]
    return nn.Sequential(*choices, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
"""
    )
    with pytest.raises(FBNError, match=r"TRIAL of the search space .* changes its choices"):
        Trial(definition(str(path), 32), digits, SHORT)
