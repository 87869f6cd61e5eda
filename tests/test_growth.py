"""Growing images: the sizes that a training steps through, and the networks that take them."""

from __future__ import annotations

import random

import torch
from test_retrain import Small
from torch import nn

from fbn_deploy.retrain.growth import growing, takes_sizes
from fbn_deploy.retrain.network import subnet
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet


def test_images_grow_to_their_full_size_and_small_ones_keep_it() -> None:
    resolution = growing(0.5, 160, 100)
    assert [resolution(step) for step in (0, 20, 40, 60, 79, 80, 99)] == [
        80, 96, 128, 144, 160, 160, 160,
    ]  # fmt: skip
    assert {growing(0.25, 160, 100)(0), growing(0.25, 64, 100)(0)} == {64}
    assert {growing(0.5, 32, 10)(step) for step in range(10)} == {32}
    assert {growing(1.0, 150, 10)(step) for step in range(10)} == {150}


def test_a_network_of_one_input_size_is_told_from_one_of_any_and_left_as_it_was() -> None:
    images = torch.rand(2, 3, 96, 96)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 96 * 96, 2))
    assert not takes_sizes(flat, images, {64, 96})
    assert takes_sizes(flat, images, {96})
    any_size = Small()
    before = {name: tensor.clone() for name, tensor in any_size.state_dict().items()}
    assert takes_sizes(any_size, images, {64, 80, 96})
    assert any_size.training
    assert all(torch.equal(before[name], now) for name, now in any_size.state_dict().items())


def test_an_auxiliary_classifier_that_runs_in_training_alone_is_tried_too() -> None:
    found = definition("darts", 96, {"channels": 4, "cells": 3})
    supernet = build_supernet(found, 10)
    network = subnet(found, supernet.space.sample(random.Random(0)), 10, fair_bn=False, seed=0)
    images = torch.rand(2, 3, 96, 96)
    assert takes_sizes(network.train(), images, {64, 80})
    network.add_auxiliary()
    assert not takes_sizes(network, images, {64, 80})
