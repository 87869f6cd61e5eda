"""What a block leaves of the gradients that pass through it, on networks small enough to count."""

from __future__ import annotations

from math import isnan
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from fbn_deploy.indicators.trainability_cka import cka, gradient_cka, gradient_kernels


class Linear(nn.Module):
    """y = x W of each image, as a feature map of one pixel."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1) @ self.weight)[:, :, None, None]


def candidate_of(*blocks: nn.Module) -> Any:
    """A candidate whose network is a stem, ``blocks`` and a classifier of two classes."""
    torch.manual_seed(0)
    images, labels = torch.randn(6, 2, 1, 1), torch.tensor([0, 1, 0, 1, 1, 0])
    network = nn.Sequential(
        Linear(torch.eye(2)), *blocks, nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    )
    return SimpleNamespace(subnet=lambda: network, images=images, labels=labels)


def test_kernels_of_the_same_directions_are_alike_whatever_their_size() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    kernel = rows @ rows.T
    assert float(cka(kernel, 9 * kernel)) == pytest.approx(1)
    # The first pair alone differs: ⟨K, L⟩ = 4, ‖K‖ = √8, ‖L‖ = 2.
    one = rows[:, :1] @ rows[:, :1].T
    assert float(cka(kernel, one)) == pytest.approx(4 / (8**0.5 * 2))
    assert float(cka(kernel, torch.zeros(4, 4))) == 0


def test_rotations_pass_gradients_on_whatever_their_size() -> None:
    rotation = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    passed = gradient_cka(cast(Any, candidate_of(Linear(3 * rotation), Linear(rotation))))
    assert passed == pytest.approx(1, abs=1e-5)


def test_kernels_stand_at_the_first_input_and_behind_every_block() -> None:
    squeeze = Linear(torch.diag(torch.tensor([1.0, 1e-3])))
    candidate = candidate_of(squeeze)
    network = candidate.subnet()
    with torch.no_grad():  # gradients of the logits in two directions, which do not depend
        network[-1][1].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
    entering, leaving = gradient_kernels(network, candidate.images, candidate.labels)
    images = candidate.images.flatten(1)
    weight, bias = network[-1][1].weight, network[-1][1].bias
    with torch.no_grad():
        logits = images @ squeeze.weight @ weight.T + bias
        behind = (logits.softmax(1) - nn.functional.one_hot(candidate.labels, 2)) @ weight
        before = behind @ squeeze.weight.T
    for found, gradients in ((entering, before), (leaving, behind)):
        rows = gradients - gradients.mean(0)
        assert torch.allclose(found, rows @ rows.T / rows.norm() ** 2, atol=1e-5)


def test_without_gradients_there_is_no_value() -> None:
    class Constant(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(features)

    assert isnan(gradient_cka(cast(Any, candidate_of(Linear(torch.eye(2)), Constant()))))


def test_blocks_that_work_in_place_change_nothing() -> None:
    torch.manual_seed(1)
    weight = torch.randn(2, 2)
    values = [
        gradient_cka(cast(Any, candidate_of(Linear(weight), nn.Sequential(nn.ReLU(inplace=each)))))
        for each in (True, False)
    ]
    assert values[0] == values[1]
