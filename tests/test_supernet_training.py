"""The method: what a step adds up, what is trained, and that it learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fbn_deploy.data import ImageData, load_data, train_batches
from fbn_deploy.progress import Silent
from fbn_deploy.supernet.choice import select_path
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import Supernet, build_supernet
from fbn_deploy.supernet.training import SupernetSettings, train_supernet

TWO_OPS = """
from torch import nn
from fbn_deploy.supernet.choice import Choice


def conv(i, o, k):
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, bias=False), nn.BatchNorm2d(o))


def network(num_classes, resolution):
    c = 16
    ops = {"k1": conv(c, c, 1), "k3": conv(c, c, 3)}
    layers = [conv(3, c, 3), nn.ReLU(), Choice("op", ops), nn.ReLU(), conv(c, c, 3), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * c, num_classes)]
    return nn.Sequential(*layers, *head)
"""


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    """Noise that is a little brighter in one of three channels."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for n in range(60):
            pixels = rng.integers(0, 200, (8, 8, 3))
            pixels[..., channel] += 55
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{n}.png")
    return load_data(str(folder), resolution=8, seed=0)


@pytest.fixture
def supernet(tmp_path: Path) -> Supernet:
    (tmp_path / "two.py").write_text(TWO_OPS)
    return build_supernet(definition(str(tmp_path / "two.py"), 8), 3, seed=0)


def train(supernet: Supernet, colours: ImageData, folder: Path, steps: int, **changes: Any) -> None:
    per_epoch = train_batches(colours, colours.train, batch_size=32, seed=0).steps_per_epoch
    settings = SupernetSettings(epochs=steps / per_epoch, batch_size=32, **changes)
    checkpoint = folder / "partial"
    train_supernet(supernet, colours, settings, checkpoint=checkpoint, about={}, reporter=Silent())


def smoothed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nine tenths of the label's −log p, a tenth of the mean over classes."""
    surprise = -logits.log_softmax(1)
    of_label = surprise.gather(1, labels[:, None])[:, 0]
    return (0.9 * of_label + 0.1 * surprise.mean(1)).mean()


def test_a_strictly_fair_step_is_one_step_along_the_sum_of_every_ops_gradients(
    supernet: Supernet, colours: ImageData, tmp_path: Path
) -> None:
    """The first step of SGD at rate 0.1 is θ − 0.1 · (∂L/∂θ on path k1 + ∂L/∂θ on path k3). A
    BatchNorm before or behind the choice gets both terms, one that ends an op its own only."""
    stem, relu, choice, *rest = copy.deepcopy(supernet.network).train()
    images, labels = train_batches(colours, colours.train, batch_size=32, seed=0).at(0)
    losses = {
        option: smoothed_loss(nn.Sequential(stem, relu, op, *rest)(images), labels)
        for option, op in choice.candidates.items()
    }
    norms = {"0.1": stem[1], "4.1": rest[1][1]}
    norms |= {f"2.candidates.{option}.1": op[1] for option, op in choice.candidates.items()}
    parts = {f"{name}.{n}": p for name, m in norms.items() for n, p in m.named_parameters()}
    of_path = {
        option: torch.autograd.grad(loss, list(parts.values()), allow_unused=True)
        for option, loss in losses.items()
    }
    train(supernet, colours, tmp_path, 1, sampler="fair", optimizer="sgd", learning_rate=0.1)
    found = dict(supernet.network.named_parameters())
    for k, (name, before) in enumerate(parts.items()):
        gradients = [each[k] for each in of_path.values() if each[k] is not None]
        assert len(gradients) == (1 if "candidates" in name else 2)
        assert sum(gradients).abs().max() > 1e-4
        expected = before - 0.1 * sum(gradients)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", ["uniform", "fair"])
def test_training_batchnorms_alone_lowers_the_loss_and_leaves_every_other_weight(
    supernet: Supernet, colours: ImageData, tmp_path: Path, sampler: str
) -> None:
    images, labels = train_batches(colours, colours.train, batch_size=64, seed=1).at(0)

    @torch.no_grad()
    def losses() -> list[float]:
        found, network = [], copy.deepcopy(supernet.network).train()
        for option in ("k1", "k3"):
            select_path(network, {"op": option})
            found.append(float(nn.functional.cross_entropy(network(images), labels)))
        return found

    before = {name: p.detach().clone() for name, p in supernet.network.named_parameters()}
    at_first = losses()
    train(supernet, colours, tmp_path, 30, sampler=sampler, learning_rate=0.3)
    assert all(now < 0.85 * former for now, former in zip(losses(), at_first, strict=True))
    norms = [
        f"{name}.{part}"
        for name, module in supernet.network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    ]
    assert len(norms) == 2 * 4
    for name, parameter in supernet.network.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in norms), name
