"""Recipes: what they say, what they take, and the rates that follow from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.retrain.recipes import RECIPES, Recipe, recipe
from fbn_deploy.retrain.schedule import rate_setter


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nasbench201", {"epochs": 200, "weight_decay": 5e-4, "optimizer": "sgd"}),
        ("darts-cifar", {"epochs": 600, "cutout": 0.5, "drop_path": 0.2, "auxiliary": 0.4}),
        ("imagenet", {"epochs": 240, "label_smoothing": 0.1}),
    ],
)
def test_recipes_are_what_their_papers_say(name: str, expected: dict[str, Any]) -> None:
    assert {field: getattr(RECIPES[name], field) for field in expected} == expected


def test_a_recipe_takes_texts_for_any_of_its_numbers() -> None:
    changed = recipe("quick", {"epochs": "3", "fair_bn": "false", "mixup": None})
    assert changed == replace(RECIPES["quick"], epochs=3.0, fair_bn=False)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("quik", {}, "Did you mean 'quick'?"),
        ("quick", {"epoch": 3}, "Did you mean 'epochs'?"),
        ("quick", {"epochs": "many"}, "epochs is a float, not 'many'"),
        ("quick", {"accumulate": 5}, "cannot pass in 5 equal parts"),
        ("quick", {"patience": 3}, "choose keep best"),
        ("quick", {"precision": "fp8"}, "No precision 'fp8'"),
        ("quick", {"epochs": 0, "ema": 2.0}, "ema is between 0 and 1"),
        ("quick", {"auto_augment": "rand-m9"}, "choose augmentation timm"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(
    name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(FBNError, match=said.replace("?", r"\?")):
        recipe(name, changes)


def test_rates_rise_linearly_then_fall_along_a_cosine_to_zero() -> None:
    chosen = Recipe("", epochs=1, batch_size=2, learning_rate=0.8, warmup_epochs=1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.8)
    set_rates = rate_setter(optimizer, chosen, steps=40, steps_per_epoch=3)
    rates = []
    for step in range(41):
        set_rates(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[3 + 37 // 2] == pytest.approx(0.8 * 0.5, abs=0.02)
    assert rates[40] == pytest.approx(0, abs=1e-9)
