"""Where supernets lie while they are trained and scored, without a GPU at hand."""

from __future__ import annotations

import random

import pytest
import torch

from fbn_deploy.pipeline import answers
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
