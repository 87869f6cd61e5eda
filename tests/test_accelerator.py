"""Where supernets lie while they are trained and scored, without a GPU at hand."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from fbn_deploy.checkpoint import _beside
from fbn_deploy.distributed import join
from fbn_deploy.errors import FBNError
from fbn_deploy.indicators._blocks import _initialise
from fbn_deploy.pipeline import answers
from fbn_deploy.randomness import deterministic_kernels
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import build_supernet


def test_a_supernet_is_scored_where_it_is_on_a_processor() -> None:
    supernet = build_supernet(definition("nasbench201", 16, {"channels": 4, "cells": 1}), 3)
    assert answers.placed(supernet) is supernet


def test_elsewhere_a_copy_is_scored_and_the_supernet_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "compute_device", lambda: torch.device("meta"))
    supernet = build_supernet(definition("nasbench201", 16, {"channels": 4, "cells": 1}), 3)
    architecture = supernet.space.sample(random.Random(0))
    own = supernet.choice_ends(architecture)  # found before the copy is made
    copied = answers.placed(supernet)
    assert {p.device.type for p in copied.network.parameters()} == {"meta"}
    assert {p.device.type for p in supernet.network.parameters()} == {"cpu"}
    ends = copied.choice_ends(architecture)
    assert len(ends) == len(own)
    assert not ends & own
    assert ends <= set(copied.network.modules())


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(FBNError, match="--nproc-per-node 1"):
        join()


def test_an_optimizer_s_state_goes_to_its_weights_but_for_numbers_of_steps() -> None:
    weight = torch.empty(4, 3, 1, 1, device="meta").to(memory_format=torch.channels_last)
    assert _beside(weight, torch.tensor(7.0)).device.type == "cpu"
    assert _beside(weight, torch.ones(4)).device.type == "meta"
    same = _beside(weight, torch.ones(4, 3, 1, 1))
    assert same.device.type == "meta"
    assert same.stride() == weight.stride()


def test_kernels_repeat_within_the_block_and_settings_are_given_back() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    with deterministic_kernels(tf32=False):
        assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (True, False, False)
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == before


def test_initialisations_draw_from_the_processor_s_numbers_wherever_the_network_is() -> None:
    states = []
    for device in ("cpu", "meta"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).to(device)
        torch.manual_seed(0)
        _initialise(network)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert not torch.equal(states[0], torch.Generator().manual_seed(0).get_state())
